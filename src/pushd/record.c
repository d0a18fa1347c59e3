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

static Record *records;
static size_t n_records;
static size_t size_records;
static size_t sending;			/* how many of the first ones are on their way */

static void record_done(const PGresult *rows, void *arg);

/* Deliveries that were taken and are not written down yet. */
size_t
feed_waiting_records(void)
{
	return n_records;
}

bool
record_send(void)
{
	static PgArray seqs;
	static PgArray names;
	const char *values[2];

	pg_array_begin(&seqs);
	pg_array_begin(&names);
	sending = n_records < RECORD_BATCH ? n_records : RECORD_BATCH;
	for (size_t i = 0; i < sending; i++)
	{
		pg_array_add_int(&seqs, records[i].seq);
		pg_array_add(&names, records[i].user->name);
		if (records[i].broadcast)
		{
			pg_array_add_int(&seqs, records[i].seq);
			pg_array_add(&names, "*");
		}
	}
	values[0] = pg_array_end(&seqs);
	values[1] = pg_array_end(&names);
	if (values[0] == NULL || values[1] == NULL)
		return false;
	return pg_send(feed.pg, "SELECT iot_internal.push_delivered($1, $2)", 2, values, record_done,
				   NULL);
}

static void
record_done(const PGresult *rows, void *arg)
{
	if (rows == NULL)
	{
		/* they stay, to be recorded over the next connection */
		sending = 0;
		if (pg_connected(feed.pg))
			pg_fail(feed.pg, "could not record deliveries");
		return;
	}
	metrics.deliveries_recorded += (uint64_t) feed_int(rows, 0, 0);
	for (size_t i = 0; i < sending; i++)
	{
		records[i].user->in_flight--;
		user_release(records[i].user);
	}
	n_records -= sending;
	memmove(records, records + sending, n_records * sizeof(Record));
	sending = 0;
}

/* A socket of the user took the message: to be written down. */
void
feed_taken(User *user, const Message *message)
{
	if (n_records == size_records)
	{
		size_t		size = size_records == 0 ? 64 : size_records * 2;
		Record	   *larger = realloc(records, size * sizeof(Record));

		if (larger == NULL)
		{
			user->in_flight--;	/* stays pending, and is told once more */
			return;
		}
		records = larger;
		size_records = size;
	}
	user_hold(user);
	records[n_records].seq = message->seq;
	records[n_records].user = user;
	records[n_records].broadcast = message->broadcast;
	n_records++;
}
