/*
 * cell.h
 *		The databases that the daemon speaks for, and how far each client has come there.
 *
 * Each has its own connection, epoch, sequence numbers and turns, and none waits for another.
 */
#ifndef IOT_PUSHD_CELL_H
#define IOT_PUSHD_CELL_H

#include "pushd/pg.h"
#include "pushd/pushd.h"

typedef enum FeedState
{
	FEED_NONE,					/* subscribed to nothing */
	FEED_CATCH_UP,				/* reads from the table, page by page */
	FEED_LIVE					/* gets what is new as it comes */
} FeedState;

/* One client in one cell. */
struct Place
{
	Client	   *client;
	Cell	   *cell;
	Place	   *next;			/* of those that wait for the database */
	FeedState	feed;
	bool		allowed;		/* the cell knows the user, and takes the token */
	bool		refused;		/* ... or it does not; neither until it was asked */
	bool		queued;
	bool		asked;			/* a statement about it is under way */
	bool		restart;		/* ... whose page is to be thrown away */
	bool		seen_overflow;	/* seen could not keep all */
	int			recheck_place;	/* in the statement under way, or -1 */
	int			n_seen;
	int64_t    *seen;			/* seqs of pending deliveries that went to this socket */
	int64_t		live_after;		/* live: nothing up to this again */
	int64_t		pending_after;	/* catching up: pages of pending deliveries begin here */
	int64_t		pending_until;
	int64_t		acked;
	int64_t		last_seq;		/* highest sequence number queued */
};

typedef struct PlaceQueue
{
	Place	   *first;
	Place	   *last;
} PlaceQueue;

struct Cell
{
	int			index;
	const char *name;			/* NULL for the only one, where cells have no names */
	char		prefix[64];		/* of its lines in the log */
	Pg		   *pg;
	bool		ready;			/* the database has told its state since the last connect */
	bool		known;			/* ... ever */
	bool		paused;
	char		epoch[40];
	int64_t		head;
	int64_t		floor;
	int64_t		cursor;			/* everything up to this was offered to live clients */
	bool		live_wanted;
	bool		sweep_wanted;
	int			last_turn;
	int64_t		next_poll;
	int64_t		next_sweep;
	int64_t		sweep_after;
	PlaceQueue	authorize;
	PlaceQueue	pages;
	Place	   *asked_place;	/* of the statement under way; NULL once it has gone */
};

extern Cell cells[MAX_CELLS];
extern int	n_cells;

/* Whether cells have names, which clients are told. */
static inline bool
cells_named(void)
{
	return cells[0].name != NULL;
}

#endif							/* IOT_PUSHD_CELL_H */
