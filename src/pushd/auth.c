/*
 * auth.c
 *		Keys and JSON Web Tokens: who a client is, and until when.
 *
 * The algorithm follows from the key and never from the token: a secret verifies HS256 only, an
 * RSA key RS256, a P-256 key ES256.  libjwt 1.10 checks signatures and nothing else, so that
 * exp, nbf and aud are judged here.  A token is good under any of the keys; texts that say why
 * one is refused never hold any part of it.
 */
#include "pushd/auth.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>
#include <jwt.h>
#include <openssl/bio.h>
#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/pem.h>

#include "core/keyfile.h"
#include "core/utf8.h"

#define NBF_LEEWAY		5		/* seconds that a signer's clock may be ahead of ours */
#define MIN_RSA_BITS	2048

typedef struct Key
{
	jwt_alg_t	alg;
	int			len;
	unsigned char *bytes;
} Key;

struct AuthKeys
{
	int			count;
	Key			key[AUTH_MAX_KEYS];
};

AuthKeys *
auth_keys_new(void)
{
	return calloc(1, sizeof(AuthKeys));
}

void
auth_keys_free(AuthKeys *keys)
{
	if (keys == NULL)
		return;
	for (int i = 0; i < keys->count; i++)
	{
		explicit_bzero(keys->key[i].bytes, (size_t) keys->key[i].len);
		free(keys->key[i].bytes);
	}
	free(keys);
}

int
auth_keys_count(const AuthKeys *keys)
{
	return keys->count;
}

/* The one algorithm that a public key may verify, or JWT_ALG_NONE with a reason. */
static jwt_alg_t
algorithm_of_pem(const char *pem, const char **why)
{
	BIO		   *bio = BIO_new_mem_buf(pem, -1);
	EVP_PKEY   *key = bio != NULL ? PEM_read_bio_PUBKEY(bio, NULL, NULL, NULL) : NULL;
	jwt_alg_t	alg = JWT_ALG_NONE;
	char		curve[64] = "";

	*why = "holds a public key that is neither RSA nor EC";
	if (key == NULL)
		*why = "holds a public key that cannot be read";
	else if (EVP_PKEY_base_id(key) == EVP_PKEY_RSA)
	{
		if (EVP_PKEY_bits(key) < MIN_RSA_BITS)
			*why = "holds an RSA key of less than 2048 bits";
		else
			alg = JWT_ALG_RS256;
	}
	else if (EVP_PKEY_base_id(key) == EVP_PKEY_EC)
	{
		if (EVP_PKEY_get_utf8_string_param(key, OSSL_PKEY_PARAM_GROUP_NAME, curve,
										   sizeof(curve), NULL) != 1 ||
			strcmp(curve, "prime256v1") != 0)
			*why = "holds an EC key on another curve than P-256";
		else
			alg = JWT_ALG_ES256;
	}
	EVP_PKEY_free(key);
	BIO_free(bio);
	return alg;
}

/* Adds the keys of a file; false with a text, and then some of them may have been added. */
bool
auth_keys_add_file(AuthKeys *keys, const char *path, char *error, size_t error_size)
{
	IotKeyFile	file;

	if (!iot_keyfile_read(&file, path, error, error_size))
		return false;
	for (int i = 0; i < file.count; i++)
	{
		const char *why = "needs memory that is not there";
		jwt_alg_t	alg = file.is_pem ? algorithm_of_pem(file.item[i], &why) : JWT_ALG_HS256;
		Key		   *key = &keys->key[keys->count];

		if (alg != JWT_ALG_NONE && keys->count == AUTH_MAX_KEYS)
		{
			why = "holds one key too many: at most 8 can be good at once";
			alg = JWT_ALG_NONE;
		}
		if (alg == JWT_ALG_NONE || (key->bytes = (unsigned char *) strdup(file.item[i])) == NULL)
		{
			snprintf(error, error_size, "key file \"%s\" %s", path, why);
			iot_keyfile_free(&file);
			return false;
		}
		key->alg = alg;
		key->len = (int) strlen(file.item[i]);
		keys->count++;
	}
	iot_keyfile_free(&file);
	return true;
}

static bool
is_base64url(char c)
{
	return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') ||
		c == '-' || c == '_';
}

/* Whether the text has the form of a signed token: three parts of base64url. */
bool
auth_looks_like_token(const char *text, size_t len)
{
	int			dots = 0;

	for (size_t i = 0; i < len; i++)
	{
		if (text[i] == '.')
			dots++;
		else if (!is_base64url(text[i]))
			return false;
	}
	return dots == 2 && len > 2;
}

/* Decodes base64url without padding into a zero-terminated text; NULL where it is none. */
static char *
decode_part(const char *part, size_t len)
{
	static const char digits[] =
	"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
	char	   *text = malloc(len / 4 * 3 + 4);
	size_t		n = 0;
	uint32_t	bits = 0;
	int			have = 0;

	if (text == NULL || len % 4 == 1)
	{
		free(text);
		return NULL;
	}
	for (size_t i = 0; i < len; i++)
	{
		const char *digit = part[i] != '\0' ? strchr(digits, part[i]) : NULL;

		if (digit == NULL)
		{
			free(text);
			return NULL;
		}
		bits = bits << 6 | (uint32_t) (digit - digits);
		have += 6;
		if (have >= 8)
		{
			have -= 8;
			text[n++] = (char) (bits >> have & 0xff);
		}
	}
	text[n] = '\0';
	if (strlen(text) != n || !iot_utf8_valid(text, n))
	{
		free(text);
		return NULL;
	}
	return text;
}

/* Whether an object has a name twice: whoever reads it may take the one or the other. */
static bool
has_duplicates(const cJSON *object)
{
	for (const cJSON *item = object != NULL ? object->child : NULL; item != NULL; item = item->next)
	{
		if (item->string != NULL && cJSON_GetObjectItemCaseSensitive(object, item->string) != item)
			return true;
	}
	return false;
}

/* The algorithm that the token's head names, or JWT_ALG_NONE where it cannot be good. */
static jwt_alg_t
algorithm_of_token(const char *token)
{
	char	   *text = decode_part(token, strcspn(token, "."));
	cJSON	   *head = text != NULL ? cJSON_Parse(text) : NULL;
	const char *name = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(head, "alg"));
	jwt_alg_t	alg = JWT_ALG_NONE;

	/* "crit" names extensions that must be understood; we understand none */
	if (name != NULL && cJSON_GetObjectItemCaseSensitive(head, "crit") == NULL &&
		!has_duplicates(head))
	{
		if (strcmp(name, "HS256") == 0)
			alg = JWT_ALG_HS256;
		else if (strcmp(name, "RS256") == 0)
			alg = JWT_ALG_RS256;
		else if (strcmp(name, "ES256") == 0)
			alg = JWT_ALG_ES256;
	}
	cJSON_Delete(head);
	free(text);
	return alg;
}

/* The claims' text, to be freed; NULL where it is none. */
static char *
claims_of_token(const char *token)
{
	const char *claims = token + strcspn(token, ".") + 1;

	return decode_part(claims, strcspn(claims, "."));
}

/* A claim that is a time: false where it is there and is none. */
static bool
time_claim(const cJSON *claims, const char *name, double *value, bool *given)
{
	const cJSON *item = cJSON_GetObjectItemCaseSensitive(claims, name);

	*given = item != NULL;
	if (item == NULL)
		return true;
	if (!cJSON_IsNumber(item) || !isfinite(item->valuedouble))
		return false;
	*value = item->valuedouble;
	return true;
}

/* Whether "aud" names the audience; without one of ours, no token that names any is for us. */
static bool
audience_matches(const cJSON *claims, const char *audience)
{
	const cJSON *aud = cJSON_GetObjectItemCaseSensitive(claims, "aud");
	const cJSON *item;

	if (aud == NULL)
		return audience == NULL;
	if (audience == NULL)
		return false;
	if (cJSON_IsString(aud))
		return strcmp(aud->valuestring, audience) == 0;
	if (!cJSON_IsArray(aud))
		return false;
	cJSON_ArrayForEach(item, aud)
	{
		if (cJSON_IsString(item) && strcmp(item->valuestring, audience) == 0)
			return true;
	}
	return false;
}

/* Takes the claims that a token may be revoked by; NULL, or why they are refused. */
static const char *
take_identity(const cJSON *claims, AuthUser *user)
{
	const cJSON *id = cJSON_GetObjectItemCaseSensitive(claims, "jti");
	double		value = 0;
	bool		given;

	if (!time_claim(claims, "iat", &value, &given) || fabs(value) > 1e15)
		return "iat is not a time";
	user->issued_at[0] = '\0';
	if (given)
		snprintf(user->issued_at, sizeof(user->issued_at), "%.3f", value);
	user->token_id[0] = '\0';
	if (id == NULL)
		return NULL;
	if (!cJSON_IsString(id) || strlen(id->valuestring) > AUTH_MAX_ID)
		return "jti is not a text of at most 128 bytes";
	strcpy(user->token_id, id->valuestring);
	return NULL;
}

/* Judges verified claims and takes the user from them; NULL, or why they are refused. */
static const char *
check_claims(const cJSON *claims, const char *audience, int64_t now, AuthUser *user)
{
	const char *sub = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(claims, "sub"));
	double		value = 0;
	bool		given;
	size_t		len;
	const char *why;

	if (!cJSON_IsObject(claims))
		return "its claims are not an object";
	if (has_duplicates(claims))
		return "a claim is there twice";
	if (!time_claim(claims, "exp", &value, &given))
		return "exp is not a time";
	user->expires_at = INT64_MAX;
	if (given && value < 9e15)
	{
		user->expires_at = (int64_t) floor(value);
		if (user->expires_at <= now)
			return "it has expired";
	}
	if (!time_claim(claims, "nbf", &value, &given))
		return "nbf is not a time";
	if (given && value > (double) (now + NBF_LEEWAY))
		return "it is not valid yet";
	if ((why = take_identity(claims, user)) != NULL)
		return why;
	if (!audience_matches(claims, audience))
		return "it is meant for another audience";
	if (sub == NULL || sub[0] == '\0')
		return "it names no user in sub";
	len = strlen(sub);
	if (len > AUTH_MAX_USER || !iot_utf8_valid(sub, len))
		return "the name in sub is too long";
	for (size_t i = 0; i < len; i++)
	{
		/* "*" alone stands for nobody in particular where deliveries are counted */
		if ((unsigned char) sub[i] < 0x20 || sub[i] == 0x7f || sub[i] == '*')
			return "the name in sub has characters that no user has";
	}
	memcpy(user->name, sub, len + 1);
	return NULL;
}

/*
 * Judges a token at the time now (seconds since 1970).  NULL and *user filled where it is good,
 * else a short reason for the log.
 */
const char *
auth_check(const AuthKeys *keys, const char *audience, const char *token, size_t len, int64_t now,
		   AuthUser *user)
{
	char		copy[AUTH_MAX_TOKEN + 1];
	const char *why = "no key of ours signed it";
	jwt_alg_t	alg;

	if (len > AUTH_MAX_TOKEN)
		return "it is too long";
	if (!auth_looks_like_token(token, len))
		return "it is not a signed token";
	memcpy(copy, token, len);
	copy[len] = '\0';
	alg = algorithm_of_token(copy);
	if (alg == JWT_ALG_NONE)
		why = "its algorithm is not HS256, RS256 or ES256";
	else
	{
		for (int i = 0; i < keys->count; i++)
		{
			const Key  *key = &keys->key[i];
			jwt_t	   *jwt = NULL;
			char	   *text;
			cJSON	   *claims;

			if (key->alg != alg ||
				jwt_decode(&jwt, copy, key->bytes, key->len) != 0)
				continue;
			/* as they were signed, since the library keeps one of two that have the same name */
			text = jwt_get_alg(jwt) == key->alg ? claims_of_token(copy) : NULL;
			claims = text != NULL ? cJSON_Parse(text) : NULL;
			why = check_claims(claims, audience, now, user);
			cJSON_Delete(claims);
			free(text);
			jwt_free(jwt);
			break;
		}
	}
	explicit_bzero(copy, sizeof(copy));
	return why;
}
