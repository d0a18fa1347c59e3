/*
 * password.h
 *		Hashes of passwords.
 */
#ifndef IOT_PASSWORD_H
#define IOT_PASSWORD_H

#define IOT_PASSWORD_HASH_SIZE 128

extern void iot_password_hash(const char *password, size_t len, char *hash);
extern bool iot_password_verify(const char *password, size_t len, const char *hash);

#endif							/* IOT_PASSWORD_H */
