/*
 * user.c
 *		Users with sockets, by name.
 */
#include "pushd/pushd.h"

#include <stdlib.h>
#include <string.h>

#define USER_CHAINS		4096	/* a power of two */

static User *user_chains[USER_CHAINS];
static User *users;

static uint32_t
hash_name(const char *name)
{
	uint32_t	hash = 2166136261u;

	for (const char *p = name; *p != '\0'; p++)
		hash = (hash ^ (unsigned char) *p) * 16777619u;
	return hash & (USER_CHAINS - 1);
}

User *
user_first(void)
{
	return users;
}

void
user_hold(User *user)
{
	user->refs++;
}

void
user_release(User *user)
{
	User	  **link;

	if (--user->refs > 0)
		return;
	link = &user_chains[hash_name(user->name)];
	while (*link != user)
		link = &(*link)->next;
	*link = user->next;
	if (user->all_prev != NULL)
		user->all_prev->all_next = user->all_next;
	else
		users = user->all_next;
	if (user->all_next != NULL)
		user->all_next->all_prev = user->all_prev;
	free(user);
}

/* The user of that name, held; NULL without memory. */
User *
user_get(const char *name)
{
	User	  **chain = &user_chains[hash_name(name)];
	User	   *user;

	for (user = *chain; user != NULL; user = user->next)
	{
		if (strcmp(user->name, name) == 0)
		{
			user->refs++;
			return user;
		}
	}
	user = calloc(1, sizeof(User) + strlen(name) + 1);
	if (user == NULL)
		return NULL;
	strcpy(user->name, name);
	user->refs = 1;
	user->next = *chain;
	*chain = user;
	user->all_next = users;
	if (users != NULL)
		users->all_prev = user;
	users = user;
	return user;
}

/* Takes the client from its user's list; it keeps its hold. */
void
user_leave(Client *client)
{
	Client	  **link;

	if (client->user == NULL)
		return;
	for (link = &client->user->clients; *link != NULL; link = &(*link)->user_next)
	{
		if (*link == client)
		{
			*link = client->user_next;
			break;
		}
	}
}
