/*
 * token.c
 *		Signing tokens: iot_internal.sign_token().
 *
 * Runs in any backend.  The key is read for each token and kept nowhere, so that a change of the
 * file counts at once.  Error texts never show what is inside.
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/builtins.h"

#include "compat.h"
#include "core/jwt.h"
#include "core/keyfile.h"
#include "iot.h"

PG_FUNCTION_INFO_V1(iot_token_sign);

/*
 * iot_internal.sign_token(claims json) returns text; VOLATILE STRICT.  Signs with the first secret of
 * the file that iot.jwt_key_file names.
 */
Datum
iot_token_sign(PG_FUNCTION_ARGS)
{
	text	   *claims = PG_GETARG_TEXT_PP(0);
	size_t		len = VARSIZE_ANY_EXHDR(claims);
	char	   *token = palloc(iot_jwt_size(len));
	char		error[512];
	IotKeyFile	file;
	bool		is_pem;
	bool		done = false;

	if (iot_jwt_key_file == NULL || iot_jwt_key_file[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("there is no key to sign tokens with"),
				 errhint("Set \"iot.jwt_key_file\" to a file that holds a secret of at least 32 bytes.")));
	if (!iot_keyfile_read(&file, iot_jwt_key_file, error, sizeof(error)))
	{
		/* where the key lies is nobody's business who logs in */
		ereport(LOG,
				(errcode(ERRCODE_CONFIG_FILE_ERROR),
				 errmsg("%s", error)));
		ereport(ERROR,
				(errcode(ERRCODE_CONFIG_FILE_ERROR),
				 errmsg("could not read the key to sign tokens with"),
				 errhint("The server's log tells why.")));
	}
	is_pem = file.is_pem;
	if (!is_pem)
		done = iot_jwt_sign(token, VARDATA_ANY(claims), len, file.item[0]);
	iot_keyfile_free(&file);
	if (!done)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIG_FILE_ERROR),
				 errmsg("could not sign a token"),
				 is_pem ? errhint("Public keys cannot sign: \"iot.jwt_key_file\" must hold a secret.") : 0));
	PG_RETURN_TEXT_P(cstring_to_text(token));
}
