/*
 * pushd.h
 *		What the files of iot-pushd share: settings, figures, the log, and the shapes of clients,
 *		subscriptions and messages.
 *
 * The daemon is one thread in one libwebsockets loop.  main.c reads the settings, log.c writes the
 * log, listen.c accepts, http.c reads a request's head and answer.c answers it, client.c owns
 * connections, user.c knows whose they are, queue.c holds what waits for them, frame.c reads frames,
 * auth.c judges tokens, protocol.c understands what clients say, subscription.c what they want to
 * hear, pg.c connects to databases, the cells (cell.h), and feed.c decides what is asked in each:
 * access.c who may come in, recheck.c who still may be there, live.c what is new, catchup.c what one
 * client missed, record.c what was taken, telemetry.c what sensors say.  request.c has questions and
 * orders of users answered.
 */
#ifndef IOT_PUSHD_PUSHD_H
#define IOT_PUSHD_PUSHD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <libwebsockets.h>

#include "pushd/auth.h"
#include "pushd/frame.h"

#if defined(__GNUC__)
#define PRINTF_LIKE(text, first) __attribute__((format(printf, text, first)))
#else
#define PRINTF_LIKE(text, first)
#endif

#define MAX_OPTION_VALUES	16
#define MAX_CELLS			16
#define MAX_CELL_NAME		32

/* Close codes: 4xxx are the protocol's own. */
#define CLOSE_NORMAL		1000
#define CLOSE_GOING_AWAY	1001
#define CLOSE_PROTOCOL		1002
#define CLOSE_TOO_LARGE		1009
#define CLOSE_INTERNAL		1011
#define CLOSE_TRY_LATER		1013
#define CLOSE_EXPIRED		4001
#define CLOSE_TOO_SLOW		4008
#define CLOSE_UNAUTHORIZED	4401

/* What a client may cost. */
#define MAX_HEAD			16384	/* bytes of a request's head */
#define MAX_MESSAGE			32768	/* bytes of a message from a client */
#define MAX_INBOX			65536	/* bytes of messages that wait for the database's word */
#define MAX_QUEUE			(256 * 1024)	/* bytes that wait for a socket */
#define HIGH_WATER			(128 * 1024)	/* above this a client reads from the table instead */
#define LOW_WATER			(64 * 1024) /* below this it is given the next page */
#define MAX_FRAME			(32 * 1024) /* events are put together up to this */
#define SOCKET_BUFFER		(64 * 1024) /* the kernel's part */
#define AUTH_DEADLINE_MS	5000	/* from accept to a token that is good */
#define SLOW_MS				8000	/* what the oldest waiting byte may be old */
#define LINGER_MS			1500	/* for a client to answer our close */
#define PING_AFTER_MS		30000	/* of silence */
#define SILENCE_MS			45000	/* and then it is gone */
#define SETTLE_MS			1000	/* how long a client waits for cells that say nothing */
#define SCAN_MS				250

typedef struct Options
{
	const char *listen;
	const char *conninfos[MAX_CELLS];
	const char *cell_names[MAX_CELLS];	/* NULL for a database that is the only one */
	int			n_cells;
	const char *key_files[MAX_OPTION_VALUES];
	int			n_key_files;
	const char *audience;
	const char *allow_origins[MAX_OPTION_VALUES];
	int			n_allow_origins;
	const char *www;
	const char *tls_cert;
	const char *tls_key;
	int			max_connections;
	int			max_subscriptions;
} Options;

/* Counters since start; http.c writes them out. */
typedef struct Metrics
{
	uint64_t	accepted;
	uint64_t	refused;		/* connections closed or answered with an error at the door */
	uint64_t	auth_failures;
	uint64_t	notifications;	/* read from the table as new */
	uint64_t	events_sent;	/* taken by a socket */
	uint64_t	frames_sent;
	uint64_t	bytes_sent;
	uint64_t	messages_received;
	uint64_t	deliveries_recorded;	/* by this daemon, another may have been first */
	uint64_t	replay_pages;
	uint64_t	resets;
	uint64_t	closed_slow;
	uint64_t	closed_expired;
	uint64_t	closed_error;	/* 1002, 1003, 1007, 1009 */
	uint64_t	database_connects;
	uint64_t	hints;
	uint64_t	value_polls;	/* statements about live measurements */
	uint64_t	values_sent;	/* live measurements taken by a socket */
	uint64_t	requests;		/* questions and orders handed to the database */
} Metrics;

struct cJSON;

typedef struct Cell Cell;
typedef struct Client Client;
typedef struct Place Place;
typedef struct Watch Watch;

/* A text on its way to any number of sockets, with its frame header before it. */
typedef struct Message
{
	int			refs;
	bool		is_event;		/* this and the next may share a frame with their neighbours */
	bool		is_value;
	bool		is_pong;
	bool		broadcast;		/* a delivery to "whoever comes first" waits for it */
	Cell	   *cell;			/* that it comes from, or NULL */
	int64_t		seq;			/* of an event, there */
	uint32_t	len;			/* of the text */
	uint8_t		header_len;		/* of the frame's header, which ends where the text begins */
	unsigned char bytes[];		/* LWS_PRE + FRAME_HEADER_MAX, then the text */
} Message;

/* A user with at least one socket that is ready. */
typedef struct User
{
	struct User *next;			/* of the hash chain */
	struct User *all_next;
	struct User *all_prev;
	int			refs;			/* sockets, and what waits to be recorded */
	int			in_flight[MAX_CELLS];	/* events queued or taken, and not recorded yet */
	Client	   *clients;
	char		name[];
} User;

/* How far a subscription has come in one cell. */
typedef struct Position
{
	int64_t		after_seq;		/* nothing up to this is wanted */
	int64_t		from;			/* all eligible events in (from, served_to] were offered */
	int64_t		served_to;		/* stands still while the client is live */
	bool		resumes;		/* came with after_seq, which is still to be checked */
	bool		pending;		/* the user's pending deliveries come first */
	char		epoch[40];		/* that after_seq belongs to; empty where not told */
} Position;

typedef struct Subscription
{
	struct Subscription *next;
	int64_t		id;
	int			n_events;
	int			n_devices;
	int			n_groups;
	char	  **words;			/* events, then devices, then groups; one allocation */
	Position	positions[];	/* by cell */
} Subscription;

typedef struct QueueItem
{
	struct QueueItem *next;
	Message    *message;
	int64_t		queued_at;
	bool		record;			/* a delivery to this user is to be recorded once it is taken */
} QueueItem;

typedef struct HttpReply HttpReply;

typedef enum ClientState
{
	CLIENT_HEAD,				/* reading a request's head */
	CLIENT_REPLY,				/* writing a plain answer; closes after it */
	CLIENT_ANONYMOUS,			/* a WebSocket that has yet to say who it is */
	CLIENT_AUTHORIZING,			/* its token is good, the database has yet to say so of its user */
	CLIENT_READY,
	CLIENT_CLOSING,				/* a close frame is to be written */
	CLIENT_LINGER				/* everything is written; waits for the other side */
} ClientState;

struct Client
{
	struct lws *wsi;
	uint64_t	number;			/* names it in the log */
	Client	   *next;			/* of all */
	Client	   *prev;
	Client	   *user_next;		/* of the user's */
	User	   *user;
	Place	   *places;			/* by cell; NULL until a good token has come */
	Place	   *paging;			/* the one that waits for a page, or NULL */
	int			page_turn;		/* index of the cell that had the last page */
	ClientState state;
	bool		is_websocket;
	bool		rx_paused;
	bool		pong_queued;
	bool		close_written;
	bool		peer_closed;
	uint16_t	close_code;
	const char *close_reason;	/* constant text */
	int64_t		deadline;		/* of the state, in ms of the monotonic clock */
	int64_t		heard_at;
	int64_t		pinged_at;		/* 0: no ping is out */
	int64_t		expires_at;		/* of the token */
	char	   *issued_at;		/* likewise, a number as text; NULL where it does not say */
	char	   *token_id;		/* likewise; NULL where it has none */
	int			n_requests;		/* that wait for their answer */
	int			n_log_ins;		/* tried on this connection */
	int			n_subscriptions;	/* watches included */
	Subscription *subscriptions;
	Watch	   *watches;		/* of live measurements */
	QueueItem  *queue;
	QueueItem  *queue_last;
	QueueItem  *unconfirmed;	/* handed to the library, which has not written all of it */
	uint32_t	queue_bytes;	/* of both lists */
	uint32_t	inbox_len;
	char	   *inbox;			/* the request's head; later messages that wait, each with a zero */
	HttpReply  *reply;
	AuthUser   *claimed;		/* while authorizing */
	int64_t		settle_at;		/* likewise: which cells have said nothing by then come later */
	FrameReader reader;
};

extern Options options;
extern Metrics metrics;
extern struct lws_context *context;
extern struct lws_vhost *vhost;
extern AuthKeys *keys;
extern bool stopping;

/* main.c */
extern int64_t now_ms(void);
extern int64_t now_unix(void);

/* log.c */
extern void log_line(const char *format, ...) PRINTF_LIKE(1, 2);
extern void log_limited(const char *format, ...) PRINTF_LIKE(1, 2);
extern void log_name(char *target, size_t size, const char *name);

/* listen.c */
extern bool listen_open(const char *address);
extern void listen_close(void);
extern int	listen_callback(struct lws *wsi, enum lws_callback_reasons reason, void *user,
							void *in, size_t len);

/* http.c */
extern bool http_read_head(Client *client, size_t len);

/* answer.c */
extern int	http_write(Client *client);
extern void http_free(Client *client);
extern bool http_open_www(const char *path);

/* client.c */
extern int	client_callback(struct lws *wsi, enum lws_callback_reasons reason, void *user,
							void *in, size_t len);
extern Client *client_first(void);
extern int	client_count(ClientState state);
extern void client_kill(Client *client);
extern void client_finish(Client *client);
extern int	client_total(void);
extern void client_close(Client *client, uint16_t code, const char *reason);
extern void client_upgraded(Client *client, const char *token, size_t token_len);
extern void client_check_token(Client *client, const char *token, size_t len);
extern void client_authorized(Client *client);
extern void clients_start_scan(void);
extern void clients_close_all(uint16_t code, const char *reason);
extern bool client_is_open(const Client *client);

/* input.c */
extern void input_read(Client *client, const unsigned char *data, size_t len);
extern void input_take_kept(Client *client);
extern void input_free(Client *client);

/* user.c */
extern User *user_first(void);
extern User *user_get(const char *name);
extern void user_hold(User *user);
extern void user_release(User *user);
extern void user_leave(Client *client);

/* queue.c */
extern Message *message_new(const char *text, size_t len);
extern void message_release(Message *message);
extern Message *message_of_cell(Cell *cell, const char *text, size_t len);
extern void client_reply(Client *client, const char *text);
extern void client_reply_of_cell(Client *client, Cell *cell, const char *text);
extern void client_enqueue(Client *client, Message *message, bool record);
extern void queue_free(Client *client, QueueItem *item, bool taken);
extern void queue_drop(Client *client, const Cell *cell);
extern void queue_control(Client *client, FrameOpcode opcode, const void *data, size_t len);
extern int	queue_write(Client *client);
extern int	queue_write_bytes(Client *client, unsigned char *bytes, size_t len);

/* protocol.c */
extern void protocol_message(Client *client, const char *text, size_t len);
extern void protocol_error(Client *client, const int64_t *id, const char *code,
						   const char *message);
extern void protocol_ready(Client *client);
extern void protocol_cell(const Place *place);
extern void protocol_reset(const Place *place, const Subscription *subscription,
						   const char *reason);
extern bool protocol_integer(const struct cJSON *item, int64_t min, int64_t *value);

/* subscription.c */
extern const char *subscription_read(const Client *client, Subscription *subscription,
									 const struct cJSON *request);
extern bool subscription_matches(const Subscription *subscription, const char *event,
								 const char *device, const char *device_group);
extern void subscription_free(Subscription *subscription);

#endif							/* IOT_PUSHD_PUSHD_H */
