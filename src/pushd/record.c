/*
 * record.c
 *		Deliveries that sockets took, until the database has written them down.
 *
 * They outlive the connection to it: what could not be recorded is recorded over the next one.
 * Only a daemon that dies forgets some, and then somebody is told twice.
 */
#include "pushd/feed_internal.h"

#include <stdlib.h>
#include <string.h>

#define RECORD_BATCH	1000

typedef struct Record
{
	int64_t		seq;
	User	   *user;
	bool		broadcast;
} Record;

/* Those of one cell. */
typedef struct Records
{
	Record	   *all;
	size_t		n;
	size_t		size;
	size_t		sending;		/* how many of the first ones are on their way */
} Records;

static Records records[MAX_CELLS];

static void record_done(const PGresult *rows, void *arg);

/* Deliveries that were taken and are not written down yet. */
size_t
feed_waiting_records(const Cell *cell)
{
	return records[cell->index].n;
}

/* Whether any could be written down now. */
bool
feed_has_records(void)
{
	for (int i = 0; i < n_cells; i++)
	{
		if (cells[i].ready && records[i].n > 0)
			return true;
	}
	return false;
}

bool
record_send(Cell *cell)
{
	static PgArray seqs;
	static PgArray names;
	Records    *r = &records[cell->index];
	const char *values[2];

	pg_array_begin(&seqs);
	pg_array_begin(&names);
	r->sending = r->n < RECORD_BATCH ? r->n : RECORD_BATCH;
	for (size_t i = 0; i < r->sending; i++)
	{
		pg_array_add_int(&seqs, r->all[i].seq);
		pg_array_add(&names, r->all[i].user->name);
		if (r->all[i].broadcast)
		{
			pg_array_add_int(&seqs, r->all[i].seq);
			pg_array_add(&names, "*");
		}
	}
	values[0] = pg_array_end(&seqs);
	values[1] = pg_array_end(&names);
	if (values[0] == NULL || values[1] == NULL)
		return false;
	return pg_send_prepared(cell->pg, "push_delivered", 2, values, record_done, cell);
}

static void
record_done(const PGresult *rows, void *arg)
{
	Cell	   *cell = arg;
	Records    *r = &records[cell->index];

	if (rows == NULL)
	{
		/* they stay, to be recorded over the next connection */
		r->sending = 0;
		if (pg_connected(cell->pg))
			pg_fail(cell->pg, "could not record deliveries");
		return;
	}
	metrics.deliveries_recorded += (uint64_t) feed_int(rows, 0, 0);
	for (size_t i = 0; i < r->sending; i++)
	{
		r->all[i].user->in_flight[cell->index]--;
		user_release(r->all[i].user);
	}
	r->n -= r->sending;
	memmove(r->all, r->all + r->sending, r->n * sizeof(Record));
	r->sending = 0;
}

/* A socket of the user took the message: to be written down. */
void
feed_taken(User *user, const Message *message)
{
	Records    *r = &records[message->cell->index];

	if (r->n == r->size)
	{
		size_t		size = r->size == 0 ? 64 : r->size * 2;
		Record	   *larger = realloc(r->all, size * sizeof(Record));

		if (larger == NULL)
		{
			/* stays pending, and is told once more */
			user->in_flight[message->cell->index]--;
			return;
		}
		r->all = larger;
		r->size = size;
	}
	user_hold(user);
	r->all[r->n].seq = message->seq;
	r->all[r->n].user = user;
	r->all[r->n].broadcast = message->broadcast;
	r->n++;
}
