/*
 * jwt.c
 *		What we sign, others verify (libjwt does); base64url is that of RFC 4648.
 */
#include "test.h"

#include <jwt.h>

#include "core/jwt.h"

#define SECRET "a secret of thirty-two bytes, or more"

static void
test_base64url(void **state)
{
	static const unsigned char bytes[] = {0xfb, 0xff, 0xbf, 0x00};
	char		text[IOT_BASE64URL_SIZE(sizeof(bytes))];

	assert_int_equal(iot_base64url(text, bytes, 4), 6);
	assert_string_equal(text, "-_-_AA");
	assert_int_equal(iot_base64url(text, bytes, 3), 4);
	assert_string_equal(text, "-_-_");
	assert_int_equal(iot_base64url(text, bytes, 2), 3);
	assert_string_equal(text, "-_8");
	assert_int_equal(iot_base64url(text, bytes, 1), 2);
	assert_string_equal(text, "-w");
	assert_int_equal(iot_base64url(text, bytes, 0), 0);
	assert_string_equal(text, "");
}

static void
sign_and_verify(const char *claims, const char *sub)
{
	size_t		len = strlen(claims);
	char	   *token = malloc(iot_jwt_size(len));	/* no byte more, for the sanitizer */
	jwt_t	   *jwt = NULL;

	assert_non_null(token);
	assert_true(iot_jwt_sign(token, claims, len, SECRET));
	assert_true(strlen(token) < iot_jwt_size(len));
	assert_int_equal(jwt_decode(&jwt, token, (const unsigned char *) SECRET, strlen(SECRET)), 0);
	assert_int_equal(jwt_get_alg(jwt), JWT_ALG_HS256);
	assert_string_equal(jwt_get_grant(jwt, "sub"), sub);
	jwt_free(jwt);
	jwt = NULL;
	assert_int_not_equal(jwt_decode(&jwt, token, (const unsigned char *) SECRET "!",
									strlen(SECRET) + 1), 0);
	/* one letter of the claims */
	token[strcspn(token, ".") + 3] ^= 1;
	assert_int_not_equal(jwt_decode(&jwt, token, (const unsigned char *) SECRET, strlen(SECRET)), 0);
	free(token);
}

static void
test_sign(void **state)
{
	/* each length of the last group */
	sign_and_verify("{\"sub\":\"anna\"}", "anna");
	sign_and_verify("{\"sub\":\"annas\"}", "annas");
	sign_and_verify("{\"sub\":\"annett\"}", "annett");
	sign_and_verify("{\"sub\": \"\xc3\xa4nne\", \"iat\": 1700000000}", "\xc3\xa4nne");
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_base64url),
		cmocka_unit_test(test_sign),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
