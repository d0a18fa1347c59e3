/*
 * jwt.c
 *		Fuzz target: base64url and signing tokens (core/jwt.h), read back by the daemon's judge.
 *
 * The text up to the first zero byte is the secret, the rest the claims.
 */
#define _GNU_SOURCE
#include "memory_file.h"

#include "core/jwt.h"
#include "pushd/auth.h"

#define NOW		INT64_C(1700000000)

/* Keys of the daemon that hold this one secret; NULL where it would not take it. */
static AuthKeys *
keys_of(const char *secret)
{
	AuthKeys   *keys = auth_keys_new();
	char		error[128];

	REQUIRE(keys != NULL);
	if (auth_keys_add_file(keys, memory_file(secret, strlen(secret)), error, sizeof(error)) &&
		auth_keys_count(keys) == 1)
		return keys;
	auth_keys_free(keys);
	return NULL;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *first;
	const char *claims;
	size_t		first_len;
	size_t		claims_len;
	char	   *secret;
	char	   *token;
	AuthKeys   *keys;
	AuthUser	user;

	split_input(data, size, &first, &first_len, &claims, &claims_len);
	secret = strndup(first, first_len);
	token = malloc(iot_jwt_size(claims_len));
	REQUIRE(secret != NULL && token != NULL);
	REQUIRE(iot_jwt_sign(token, claims, claims_len, secret));
	REQUIRE(strlen(token) < iot_jwt_size(claims_len));
	REQUIRE(auth_looks_like_token(token, strlen(token)));
	keys = keys_of(secret);
	if (keys != NULL && strpbrk(secret, "\r\n") == NULL)
	{
		if (auth_check(keys, NULL, token, strlen(token), NOW, &user) == NULL)
		{
			REQUIRE(user.name[0] != '\0' && user.expires_at > NOW);
			/* any other signature is none */
			token[strlen(token) - 2] ^= 1;
			REQUIRE(auth_check(keys, NULL, token, strlen(token), NOW, &user) != NULL);
		}
	}
	auth_keys_free(keys);
	free(token);
	free(secret);
	return 0;
}
