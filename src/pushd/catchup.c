/*
 * catchup.c
 *		Clients that read from the table: what is pending for them, what they missed, and how they
 *		come to be live.
 *
 * A client has one place in the history for all its subscriptions, the least of theirs, and is
 * given pages from there; each subscription takes what it has not been served yet, and nothing
 * that another has brought.  While it catches up it gets nothing live, so that on one connection
 * events come in order, but for what is told late because it could not be told before.
 */
#include "pushd/feed_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_SEEN		4096

static void pending_page_done(const PGresult *rows, void *arg);
static void since_page_done(const PGresult *rows, void *arg);

/* Up to where the subscription's events were offered to the client. */
int64_t
catchup_served_to(const Client *client, const Subscription *subscription)
{
	if (client->feed != FEED_LIVE)
		return subscription->served_to;
	return client->live_after > feed.cursor ? client->live_after : feed.cursor;
}

/* Takes the client out of the live feed: its subscriptions stand where they were served to. */
void
catchup_leave_live(Client *client, int64_t at)
{
	if (client->feed == FEED_LIVE)
	{
		for (Subscription *s = client->subscriptions; s != NULL; s = s->next)
			s->served_to = client->live_after > at ? client->live_after : at;
	}
	client->feed = FEED_CATCH_UP;
}

static bool
any_pending(const Client *client)
{
	for (const Subscription *s = client->subscriptions; s != NULL; s = s->next)
	{
		if (s->pending)
			return true;
	}
	return false;
}

/*
 * Begins again: what is pending for the user, then what is new from now on.  "Now" is where the live
 * feed stands, not where the first page finds the head: what comes in between is new to this
 * client even where another socket of the user has taken it by then.
 */
void
catchup_start_over(Client *client, Subscription *subscription)
{
	/* one subscription must not move the place where another one's news begin */
	if (client->pending_until < 0 || !any_pending(client))
		client->pending_until = feed.cursor;
	client->pending_after = 0;
	subscription->resumes = false;
	subscription->pending = true;
	subscription->after_seq = 0;
	subscription->from = INT64_MAX;
	subscription->served_to = INT64_MAX;
	subscription->epoch[0] = '\0';
}

static bool
was_seen(const Client *client, int64_t seq)
{
	for (int i = 0; i < client->n_seen; i++)
	{
		if (client->seen[i] == seq)
			return true;
	}
	return false;
}

/* Remembers an event that went out of order, so that no later subscription brings it again. */
void
catchup_add_seen(Client *client, int64_t seq)
{
	/* the size is the next power of two, from 16 */
	if (client->n_seen == 0 || (client->n_seen >= 16 && (client->n_seen & (client->n_seen - 1)) == 0))
	{
		int			size = client->n_seen < 16 ? 16 : client->n_seen * 2;
		int64_t    *larger = size > MAX_SEEN ? NULL :
			realloc(client->seen, (size_t) size * sizeof(int64_t));

		if (larger == NULL)
		{
			client->seen_overflow = true;
			return;
		}
		client->seen = larger;
	}
	client->seen[client->n_seen++] = seq;
}

void
catchup_queue(Client *client)
{
	if (client->feed == FEED_CATCH_UP && client->state == CLIENT_READY && !client->feed_asked &&
		client->subscriptions != NULL && client->queue_bytes <= LOW_WATER)
		client_queue_add(&feed.pages, client);
}

/* Where the client's next page of the whole history begins: at the one who has seen least. */
static int64_t
page_start(const Client *client)
{
	int64_t		least = INT64_MAX;

	for (const Subscription *s = client->subscriptions; s != NULL; s = s->next)
	{
		if (s->served_to < least)
			least = s->served_to;
	}
	return least;
}

bool
catchup_send(void)
{
	static PgArray user;
	Client	   *client = client_queue_take(&feed.pages);
	const char *values[4];
	char		after[24];
	char		until[24];

	pg_array_begin(&user);
	pg_array_add(&user, client->user->name);
	values[0] = pg_array_end(&user);
	if (values[0] == NULL)
	{
		client_close(client, CLOSE_INTERNAL, "out of memory");
		return false;
	}
	client->feed_asked = true;
	feed.asked_client = client;
	metrics.replay_pages++;
	values[1] = after;
	if (any_pending(client))
	{
		snprintf(after, sizeof(after), "%lld", (long long) client->pending_after);
		snprintf(until, sizeof(until), "%lld", (long long) client->pending_until);
		values[2] = until;
		values[3] = PAGE_ROWS;
		return pg_send(feed.pg, "SELECT * FROM iot_internal.push_pending($1, $2, $3, $4)", 4,
					   values, pending_page_done, NULL);
	}
	snprintf(after, sizeof(after), "%lld", (long long) page_start(client));
	values[2] = PAGE_ROWS;
	return pg_send(feed.pg, "SELECT * FROM iot_internal.push_since($1, $2, $3)", 3, values,
				   since_page_done, NULL);
}

/* Judges positions that clients came with; true where one had to begin again. */
static bool
check_positions(Client *client)
{
	bool		again = false;

	for (Subscription *s = client->subscriptions; s != NULL; s = s->next)
	{
		const char *reason = NULL;

		if (!s->resumes)
			continue;
		s->resumes = false;
		if (s->epoch[0] != '\0' && strcmp(s->epoch, feed.epoch) != 0)
			reason = "epoch";
		else if (s->after_seq > feed.head)
			reason = "position";
		else if (s->after_seq < feed.floor)
			reason = "retention";
		if (reason == NULL)
			continue;
		again = true;
		catchup_start_over(client, s);
		protocol_reset(client, s, reason);
	}
	return again;
}

/* Whether another subscription has brought the event to this client already. */
static bool
was_served(const Client *client, const PGresult *rows, int row, int64_t seq)
{
	for (const Subscription *s = client->subscriptions; s != NULL; s = s->next)
	{
		if (seq > s->from && seq <= s->served_to && !s->pending && feed_row_matches(s, rows, row))
			return true;
	}
	return was_seen(client, seq);
}

static void
take_page(Client *client, const PGresult *rows, bool pending)
{
	for (int row = 1; row < PQntuples(rows); row++)
	{
		int64_t		seq = feed_int(rows, row, COL_SEQ);
		bool		wanted = false;
		Message    *message;

		for (const Subscription *s = client->subscriptions; s != NULL && !wanted; s = s->next)
			wanted = (pending ? s->pending : seq > s->served_to) && seq > s->after_seq &&
				feed_row_matches(s, rows, row);
		if (!wanted || was_served(client, rows, row, seq) ||
			(message = feed_row_message(rows, row)) == NULL)
			continue;
		if (pending)
			catchup_add_seen(client, seq);
		client_enqueue(client, message, true);
		message_release(message);
	}
}

static void
page_done(const PGresult *rows, bool pending)
{
	Client	   *client = feed.asked_client;
	bool		restart;

	feed.asked_client = NULL;
	if (client == NULL)
		return;
	restart = client->feed_restart;
	client->feed_asked = false;
	client->feed_restart = false;
	if (rows == NULL)
	{
		if (pg_connected(feed.pg))
			client_close(client, CLOSE_INTERNAL, "the database did not answer");
		else
			catchup_queue(client);
		return;
	}
	if (client->state != CLIENT_READY || client->subscriptions == NULL)
		return;
	if (feed_take_state(rows) && !check_positions(client) && !restart)
	{
		int64_t		scanned_to = feed_int(rows, 0, COL_SCANNED_TO);

		take_page(client, rows, pending);
		if (pending)
		{
			client->pending_after = scanned_to;
			for (Subscription *s = client->subscriptions; s != NULL; s = s->next)
			{
				if (!s->pending || scanned_to < client->pending_until)
					continue;
				s->pending = false;
				s->from = client->pending_until;
				s->served_to = client->pending_until;
			}
		}
		else
		{
			for (Subscription *s = client->subscriptions; s != NULL; s = s->next)
			{
				if (s->served_to < scanned_to)
					s->served_to = scanned_to;
			}
			if (scanned_to >= feed.head && !any_pending(client))
			{
				client->live_after = scanned_to;
				client->feed = FEED_LIVE;
				return;
			}
		}
	}
	catchup_queue(client);
}

static void
pending_page_done(const PGresult *rows, void *arg)
{
	page_done(rows, true);
}

static void
since_page_done(const PGresult *rows, void *arg)
{
	page_done(rows, false);
}

/* The client has a new subscription, which is in its list already. */
void
feed_subscribed(Client *client, Subscription *subscription)
{
	/* a page under way knows nothing of this subscription, and would count as its history */
	client->feed_restart = client->feed_asked;
	if (!subscription->resumes)
	{
		catchup_leave_live(client, feed.cursor);
		catchup_start_over(client, subscription);
	}
	else
	{
		subscription->from = subscription->after_seq;
		subscription->served_to = subscription->after_seq;
		/* who is up to date needs no page: the usual case when many come back at once */
		if (feed.ready && !feed.paused && !live_moving() &&
			subscription->after_seq == feed.cursor &&
			(subscription->epoch[0] == '\0' || strcmp(subscription->epoch, feed.epoch) == 0) &&
			(client->feed == FEED_NONE ||
			 (client->feed == FEED_LIVE && client->live_after <= feed.cursor)))
		{
			subscription->resumes = false;
			if (client->feed == FEED_NONE)
				client->live_after = feed.cursor;
			client->feed = FEED_LIVE;
			return;
		}
		if (client->feed == FEED_LIVE)
		{
			int64_t		position = subscription->served_to;

			catchup_leave_live(client, feed.cursor);
			subscription->served_to = position;
		}
		client->feed = FEED_CATCH_UP;
	}
	catchup_queue(client);
	feed_pump();
}
