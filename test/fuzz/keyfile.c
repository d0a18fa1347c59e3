/*
 * keyfile.c
 *		Fuzz target: files of secrets and public keys (core/keyfile.h).
 */
#define _GNU_SOURCE
#include "memory_file.h"

#include "core/keyfile.h"

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char		error[128] = "";
	IotKeyFile	file;

	if (!iot_keyfile_read(&file, memory_file(data, size), error, sizeof(error)))
	{
		REQUIRE(error[0] != '\0' && file.content == NULL && file.count == 0);
		return 0;
	}
	REQUIRE(file.count >= 1 && file.count <= IOT_KEYFILE_MAX_ITEMS);
	for (int i = 0; i < file.count; i++)
	{
		REQUIRE(file.item[i] >= file.content && file.item[i] <= file.content + size);
		REQUIRE(file.is_pem || strlen(file.item[i]) >= IOT_KEYFILE_MIN_SECRET);
		REQUIRE(!file.is_pem || strncmp(file.item[i], "-----BEGIN PUBLIC KEY", 21) == 0);
	}
	iot_keyfile_free(&file);
	REQUIRE(file.content == NULL);
	return 0;
}
