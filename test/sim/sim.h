/*
 * sim.h
 *		The device simulator's parts: what it is told, its devices, its connections, its log.
 *
 * One thread, one poll loop.  Everything random comes from the seed and the device's place in the
 * list, so that a run can be repeated.
 */
#ifndef IOT_SIM_H
#define IOT_SIM_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include <mosquitto.h>

#include "core/backoff.h"
#include "core/topic.h"

#define SIM_ID_MAX			64	/* bytes of a command's id that we take */
#define SIM_PARAMETERS_MAX	32

typedef struct SimOptions
{
	const char *host;
	int			port;
	const char *user;
	char	   *password;
	const char *credentials;	/* file with a user and password for each device, or NULL */
	const char *ca_file;
	const char *cert_file;
	const char *key_file;
	const char *client_id;
	bool		v5;
	bool		persistent;		/* the session outlives us: commands wait in the broker */
	bool		link_per_device;
	int			qos;
	int			keepalive;

	IotTopicTemplate telemetry_topic;
	IotTopicTemplate attributes_topic;
	IotTopicTemplate status_topic;
	IotTopicTemplate command_topic;
	IotTopicTemplate ack_topic;

	const char *parameters[SIM_PARAMETERS_MAX];
	double		initial[SIM_PARAMETERS_MAX];
	int			parameter_count;
	const char *attributes;		/* JSON text, or NULL */
	double		rate;			/* telemetry messages a second and device; < 0: all that fits */
	uint64_t	messages;		/* per device, then telemetry ends; 0: no end */
	double		jitter;			/* largest step of a value between two messages */
	bool		exit_when_done;
	double		duration;		/* seconds, 0: until a signal */
	uint64_t	seed;

	double		refuse_above;
	double		refuse_below;
	double		silent_share;	/* of the commands that are never answered */
	int			ignore_first;	/* deliveries of each command that get no answer */
	uint32_t	delay_ms;
	uint32_t	delay_max_ms;
	int			answers;		/* how often each command is answered */
	int			reorder;		/* answers held back, then given in reverse */
	bool		drop_seen;
	const char *state_file;
	bool		echo;
	const char *answer_as;		/* answers go to this device's topic */
	const char *log_file;
	bool		log_telemetry;
} SimOptions;

typedef struct SimLink SimLink;

typedef struct SimDevice
{
	char		name[IOT_DEVICE_NAME_MAX + 1];
	char	   *user;			/* of its own, with --credentials */
	char	   *password;
	SimLink    *link;
	uint64_t	random;
	double		values[SIM_PARAMETERS_MAX];
	int64_t		last_ts;		/* ms; device times never repeat */
	uint64_t	next_due_us;
	uint64_t	sent;
} SimDevice;

/* Telemetry that the broker has to confirm, by message id; device is NULL where there is none. */
typedef struct SimConfirmation
{
	SimDevice  *device;
	int64_t		ts;
} SimConfirmation;

#define SIM_MESSAGE_IDS		65536

/* A connection and the devices that speak over it. */
struct SimLink
{
	struct mosquitto *mosq;
	SimDevice  *devices;
	int			device_count;
	int			subscriptions_due;	/* SUBACKs that are still to come */
	bool		connected;
	bool		ready;
	IotBackoff	backoff;
	uint64_t	retry_at_us;	/* when to connect again, 0: not needed */
	SimConfirmation *unconfirmed;	/* SIM_MESSAGE_IDS of them, made with the first telemetry */
	uint32_t	unconfirmed_count;
	char		client_id[80];
};

typedef struct SimCounters
{
	uint64_t	received;
	uint64_t	executed;
	uint64_t	refused;
	uint64_t	dropped;
	uint64_t	answered;
	uint64_t	published;		/* telemetry */
	uint64_t	acked;			/* telemetry that the broker confirmed */
} SimCounters;

typedef struct Sim
{
	SimOptions	opt;
	SimDevice  *devices;
	int			device_count;
	SimLink    *links;
	int			link_count;
	SimCounters count;
	volatile bool stop;
} Sim;

extern Sim	sim;

/* iot_sim.c */
extern uint64_t sim_now_us(void);
extern int64_t sim_wall_ms(void);
extern double sim_random(uint64_t *state);

/* options.c */
extern void sim_parse_options(int argc, char **argv);

/* link.c */
extern void sim_links_make(void);
extern void sim_links_run(uint32_t timeout_ms);
extern void sim_links_end(void);
extern bool sim_links_ready(void);
extern bool sim_link_publish(SimLink *link, const IotTopicTemplate *topic, const char *device,
							 const char *payload, int qos, bool retain, int *mid);

/* command.c */
extern void sim_command_init(void);
extern void sim_command_received(SimDevice *device, const char *payload, size_t len, int qos,
								 bool retained);
extern uint32_t sim_command_run(uint32_t most_ms);
extern void sim_command_flush(void);

/* telemetry.c */
extern void sim_telemetry_init(void);
extern uint32_t sim_telemetry_run(uint32_t most_ms);
extern bool sim_telemetry_done(void);
extern void sim_telemetry_acked(SimLink *link, int mid);
extern int64_t sim_telemetry_report(SimDevice *device, const char *parameter, double value);

/* record.c */
extern void sim_record_open(void);
extern void sim_record_command(const char *kind, const SimDevice *device, const char *id,
							   const char *parameter, double value, double version,
							   const char *error, bool retained);
extern void sim_record_echo(const SimDevice *device, const char *id, const char *parameter,
							double value, int64_t ts);
extern void sim_record_telemetry(const char *kind, const SimDevice *device, int64_t ts, int mid);
extern void sim_record_close(void);

#endif							/* IOT_SIM_H */
