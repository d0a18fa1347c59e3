/*
 * auth.h
 *		Keys and JSON Web Tokens: who a client is, and until when.
 */
#ifndef IOT_PUSHD_AUTH_H
#define IOT_PUSHD_AUTH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define AUTH_MAX_TOKEN	8192	/* bytes of a token */
#define AUTH_MAX_USER	512		/* bytes of a user's name */
#define AUTH_MAX_ID		128		/* bytes of a token's id */
#define AUTH_MAX_KEYS	8

typedef struct AuthKeys AuthKeys;

typedef struct AuthUser
{
	char		name[AUTH_MAX_USER + 1];
	int64_t		expires_at;		/* seconds since 1970; INT64_MAX where the token says nothing */
	char		issued_at[32];	/* likewise, as text; empty where it says nothing */
	char		token_id[AUTH_MAX_ID + 1];	/* claim "jti", or empty */
} AuthUser;

extern AuthKeys *auth_keys_new(void);
extern void auth_keys_free(AuthKeys *keys);
extern bool auth_keys_add_file(AuthKeys *keys, const char *path, char *error, size_t error_size);
extern int	auth_keys_count(const AuthKeys *keys);
extern bool auth_looks_like_token(const char *text, size_t len);
extern const char *auth_check(const AuthKeys *keys, const char *audience, const char *token,
							  size_t len, int64_t now, AuthUser *user);

#endif							/* IOT_PUSHD_AUTH_H */
