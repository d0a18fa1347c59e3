/*
 * mqtt_inbox.c
 *		What the library's callbacks bring, until it is committed.
 *
 * Callbacks run under the library's locks, where nothing may raise: memory comes from malloc, and
 * where there is none, a flag says so and the connection is given up.  The memory is bounded by
 * whoever reads from the network: iot_inbox_full() tells him to stop.
 */
#include "postgres.h"

#include "utils/timestamp.h"

#include "bgworker/mqtt_inbox.h"

#define BYTES_LIMIT		(4 * 1024 * 1024)	/* of topics and payloads between two commits */

/*
 * What a payload becomes in memory depends on its members more than on its bytes: one of six bytes can
 * take 800.  Members are parted by commas; where a text has them, a batch is the smaller for it.
 */
#define MEMBERS_LIMIT	30000

static struct
{
	char	   *bytes;
	size_t		bytes_used;
	size_t		bytes_size;
	size_t		members;
	IotIngestMessage *messages;
	int			messages_size;
	size_t	   *offsets;		/* of each message in bytes, which may move */
	int			offsets_size;
	int			nmessages;
	IotPublished *published;
	int			published_size;
	int			npublished;
	size_t		payload_limit;
	bool		failed;			/* something is missing for want of memory */
}			inbox;

/* Grows an array to hold one element more; false where there is no memory. */
static bool
grow(void **array, int *size, int used, size_t element)
{
	int			wanted = Max(*size * 2, 64);
	void	   *grown;

	if (used < *size)
		return true;
	grown = realloc(*array, wanted * element);
	if (grown == NULL)
	{
		inbox.failed = true;
		return false;
	}
	*array = grown;
	*size = wanted;
	return true;
}

static bool
grow_bytes(size_t needed)
{
	size_t		size = Max(needed, Max(inbox.bytes_size * 2, 65536));
	char	   *grown;

	if (needed <= inbox.bytes_size)
		return true;
	grown = realloc(inbox.bytes, size);
	if (grown == NULL)
	{
		inbox.failed = true;
		return false;
	}
	inbox.bytes = grown;
	inbox.bytes_size = size;
	return true;
}

static size_t
count_commas(const char *text, size_t len)
{
	size_t		count = 0;

	for (size_t i = 0; i < len; i++)
		count += text[i] == ',';
	return count;
}

/*
 * A payload over the limit is cut to one byte more: enough to be told as too large.  Weight is what the
 * message costs beside its members, in members.
 */
void
iot_inbox_add_message(const char *topic, const void *payload, size_t payload_len, bool retained,
					  size_t weight)
{
	size_t		topic_len = strlen(topic);
	size_t		kept = Min(payload_len, inbox.payload_limit + 1);
	size_t		needed = inbox.bytes_used + topic_len + kept;
	IotIngestMessage *message;

	if (!grow((void **) &inbox.messages, &inbox.messages_size, inbox.nmessages,
			  sizeof(IotIngestMessage)) ||
		!grow((void **) &inbox.offsets, &inbox.offsets_size, inbox.nmessages, sizeof(size_t)) ||
		!grow_bytes(needed))
		return;
	message = &inbox.messages[inbox.nmessages];
	memset(message, 0, sizeof(*message));
	message->topic_len = topic_len;
	message->payload_len = kept;
	message->received_at = GetCurrentTimestamp();
	message->retained = retained;
	inbox.offsets[inbox.nmessages] = inbox.bytes_used;
	memcpy(inbox.bytes + inbox.bytes_used, topic, topic_len);
	if (kept > 0)
		memcpy(inbox.bytes + inbox.bytes_used + topic_len, payload, kept);
	inbox.members += weight + count_commas(inbox.bytes + inbox.bytes_used + topic_len, kept);
	inbox.bytes_used = needed;
	inbox.nmessages++;
}

void
iot_inbox_add_published(int mid, int reason)
{
	if (!grow((void **) &inbox.published, &inbox.published_size, inbox.npublished,
			  sizeof(IotPublished)))
		return;
	inbox.published[inbox.npublished].mid = mid;
	inbox.published[inbox.npublished].reason = reason;
	inbox.npublished++;
}

void
iot_inbox_set_payload_limit(size_t bytes)
{
	inbox.payload_limit = bytes;
}

/* Forgets everything: the connection it came from is gone. */
void
iot_inbox_clear(void)
{
	iot_inbox_forget_messages();
	inbox.npublished = 0;
	inbox.failed = false;
}

/* Whether memory ran out since iot_inbox_clear(). */
bool
iot_inbox_failed(void)
{
	return inbox.failed;
}

/* Whether as much is held as may be: this many messages, or the limit of bytes or of members. */
bool
iot_inbox_full(int messages)
{
	return inbox.nmessages >= messages || inbox.bytes_used >= BYTES_LIMIT ||
		inbox.members >= MEMBERS_LIMIT;
}

int
iot_inbox_message_count(void)
{
	return inbox.nmessages;
}

/* What was read; the array is the inbox's and stays until iot_inbox_forget_messages(). */
int
iot_inbox_messages(IotIngestMessage **messages)
{
	for (int i = 0; i < inbox.nmessages; i++)
	{
		inbox.messages[i].topic = inbox.bytes + inbox.offsets[i];
		inbox.messages[i].payload = inbox.messages[i].topic + inbox.messages[i].topic_len;
	}
	*messages = inbox.messages;
	return inbox.nmessages;
}

/* They are committed. */
void
iot_inbox_forget_messages(void)
{
	inbox.nmessages = 0;
	inbox.bytes_used = 0;
	inbox.members = 0;
}

int
iot_inbox_published(const IotPublished **published)
{
	*published = inbox.published;
	return inbox.npublished;
}

void
iot_inbox_forget_published(void)
{
	inbox.npublished = 0;
}
