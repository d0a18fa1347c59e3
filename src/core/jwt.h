/*
 * jwt.h
 *		Signing JSON Web Tokens with a shared secret (HS256).
 */
#ifndef IOT_CORE_JWT_H
#define IOT_CORE_JWT_H

#include "core/core.h"

/* Room for len bytes in base64url, with the terminating zero. */
#define IOT_BASE64URL_SIZE(len)	(((len) + 2) / 3 * 4 + 1)

extern IOT_API size_t iot_base64url(char *text, const unsigned char *bytes, size_t len);
extern IOT_API size_t iot_jwt_size(size_t claims_len);
extern IOT_API bool iot_jwt_sign(char *token, const char *claims, size_t claims_len,
								 const char *secret);

#endif							/* IOT_CORE_JWT_H */
