/*
 * password.c
 *		Hashes of passwords: scrypt, with its cost written beside the hash.
 *
 * Runs in any backend.  One hash takes 32 MB and a good part of a second, on purpose; how many are
 * computed at once, callers see to.  Nothing here is interrupted, and nothing of a password stays
 * behind.
 */
#include "postgres.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>

#include "common/base64.h"

#include "compat.h"
#include "password.h"

/* "$scrypt$ln=15,r=8,p=3$salt$hash": 2^15 blocks of 1 kB, gone through three times. */
#define COST_LN			15
#define COST_R			8
#define COST_P			3
#define MAX_MEMORY		(128 * 1024 * 1024)
#define SALT_SIZE		16
#define HASH_SIZE		32
#define SALT_TEXT		24		/* of base64, without the zero */
#define HASH_TEXT		44

static bool
scrypt(const char *password, size_t len, const unsigned char *salt, int ln, int r, int p,
	   unsigned char *hash)
{
	return EVP_PBE_scrypt(password, len, salt, SALT_SIZE, UINT64CONST(1) << ln, r, p, MAX_MEMORY,
						  hash, HASH_SIZE) == 1;
}

/* Writes the hash of a password as text, IOT_PASSWORD_HASH_SIZE bytes at most; raises on failure. */
void
iot_password_hash(const char *password, size_t len, char *text)
{
	unsigned char salt[SALT_SIZE];
	unsigned char hash[HASH_SIZE];
	char		salt_text[SALT_TEXT + 1] = {0};
	char		hash_text[HASH_TEXT + 1] = {0};

	if (!pg_strong_random(salt, SALT_SIZE))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate random values")));
	if (!scrypt(password, len, salt, COST_LN, COST_R, COST_P, hash))
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("could not compute the hash of a password"),
				 errdetail("It takes 32 MB of memory.")));
	if (pg_b64_encode((const void *) salt, SALT_SIZE, salt_text, SALT_TEXT) != SALT_TEXT ||
		pg_b64_encode((const void *) hash, HASH_SIZE, hash_text, HASH_TEXT) != HASH_TEXT)
		elog(ERROR, "could not encode the hash of a password");
	snprintf(text, IOT_PASSWORD_HASH_SIZE, "$scrypt$ln=%d,r=%d,p=%d$%s$%s", COST_LN, COST_R,
			 COST_P, salt_text, hash_text);
}

/*
 * Whether the password is the one.  Without a hash, or with one that cannot be read, the answer is
 * no and takes as long.  Raises nothing; computing that fails for want of memory is a no.
 */
bool
iot_password_verify(const char *password, size_t len, const char *text)
{
	char		salt_text[SALT_TEXT + 1];
	char		hash_text[HASH_TEXT + 1];
	unsigned char salt[SALT_SIZE + 2] = {0};
	unsigned char expected[HASH_SIZE + 2] = {0};
	unsigned char hash[HASH_SIZE];
	int			ln = COST_LN;
	int			r = COST_R;
	int			p = COST_P;
	bool		readable;

	readable = text != NULL &&
		sscanf(text, "$scrypt$ln=%2d,r=%2d,p=%2d$%24[A-Za-z0-9+/=]$%44[A-Za-z0-9+/=]", &ln, &r, &p,
			   salt_text, hash_text) == 5 &&
		ln >= 1 && ln <= 16 && r >= 1 && r <= 8 && p >= 1 && p <= 16 &&
		pg_b64_decode(salt_text, strlen(salt_text), (void *) salt, sizeof(salt)) == SALT_SIZE &&
		pg_b64_decode(hash_text, strlen(hash_text), (void *) expected, sizeof(expected)) == HASH_SIZE;
	if (!readable)
	{
		ln = COST_LN;
		r = COST_R;
		p = COST_P;
	}
	return scrypt(password, len, salt, ln, r, p, hash) && readable &&
		CRYPTO_memcmp(hash, expected, HASH_SIZE) == 0;
}
