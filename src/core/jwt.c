/*
 * jwt.c
 *		Signing JSON Web Tokens with a shared secret (HS256).
 *
 * Puts together what RFC 7515 calls the compact serialization; the cryptography is libcrypto's.
 * Not libjwt, which verifies our tokens elsewhere: its JSON library has functions of the same
 * names as the server, and inside a server process it would call those and crash.
 */
#include "core/jwt.h"

#ifdef POSTGRES_H
#error "src/core is plain C"
#endif

#include <string.h>

#include <openssl/evp.h>
#include <openssl/hmac.h>

#define HASH_SIZE	32

static const char head[] = "{\"alg\":\"HS256\",\"typ\":\"JWT\"}";

/*
 * Writes base64url without padding and a terminating zero; returns the length without it.  Room
 * for IOT_BASE64URL_SIZE(len).
 */
size_t
iot_base64url(char *text, const unsigned char *bytes, size_t len)
{
	size_t		n = (size_t) EVP_EncodeBlock((unsigned char *) text, bytes, (int) len);

	while (n > 0 && text[n - 1] == '=')
		n--;
	text[n] = '\0';
	for (size_t i = 0; i < n; i++)
	{
		if (text[i] == '+')
			text[i] = '-';
		else if (text[i] == '/')
			text[i] = '_';
	}
	return n;
}

/* Room that a token with so many bytes of claims needs, with its terminating zero. */
size_t
iot_jwt_size(size_t claims_len)
{
	return IOT_BASE64URL_SIZE(sizeof(head) - 1) + IOT_BASE64URL_SIZE(claims_len) +
		IOT_BASE64URL_SIZE(HASH_SIZE);
}

/*
 * Signs claims, the text of a JSON object.  False where libcrypto fails, which it does without
 * memory.
 */
bool
iot_jwt_sign(char *token, const char *claims, size_t claims_len, const char *secret)
{
	unsigned char hash[HASH_SIZE];
	unsigned	hash_len = 0;
	size_t		n = iot_base64url(token, (const unsigned char *) head, sizeof(head) - 1);

	token[n++] = '.';
	n += iot_base64url(token + n, (const unsigned char *) claims, claims_len);
	if (HMAC(EVP_sha256(), secret, (int) strlen(secret), (const unsigned char *) token, n, hash,
			 &hash_len) == NULL || hash_len != HASH_SIZE)
		return false;
	token[n++] = '.';
	iot_base64url(token + n, hash, HASH_SIZE);
	return true;
}
