/*
 * mqtt_session.c
 *		A library object as an adapter's configuration wants it.
 *
 * Runs in an adapter's process.  A password is read when a connection begins, goes to the library
 * and nowhere else; no error text holds one.
 */
#include "postgres.h"

#include <mosquitto.h>
#if LIBMOSQUITTO_VERSION_NUMBER < 2001000
#include <mqtt_protocol.h>		/* part of mosquitto.h since */
#endif

#include "storage/fd.h"

#include "bgworker/mqtt_session.h"

#define SESSION_EXPIRY_S	(7 * 24 * 3600)
#define PASSWORD_SIZE		1024

/* A key that asks for a passphrase is refused: nobody is there to type one. */
static int
no_passphrase(char *buf, int size, int rwflag, void *userdata)
{
	return 0;
}

/* First line of the file into the buffer; false where it cannot be read. */
static bool
read_password(const char *path, char *buffer)
{
	FILE	   *file = AllocateFile(path, "r");
	bool		done = file != NULL && fgets(buffer, PASSWORD_SIZE, file) != NULL;

	if (file != NULL)
		FreeFile(file);
	if (done)
		buffer[strcspn(buffer, "\r\n")] = '\0';
	return done;
}

static int
set_credentials(struct mosquitto *mosq, const IotMqttConfig *config, char *error,
				size_t error_size)
{
	char		password[PASSWORD_SIZE];
	int			rc;

	if (config->username == NULL)
		return MOSQ_ERR_SUCCESS;
	if (config->password_file == NULL)
		return mosquitto_username_pw_set(mosq, config->username, config->password);
	if (!read_password(config->password_file, password))
	{
		snprintf(error, error_size, "could not read password file \"%.100s\"",
				 config->password_file);
		return MOSQ_ERR_AUTH;
	}
	rc = mosquitto_username_pw_set(mosq, config->username, password);
	explicit_bzero(password, sizeof(password));
	return rc;
}

static int
set_tls(struct mosquitto *mosq, const IotMqttConfig *config, char *error, size_t error_size)
{
	int			rc = MOSQ_ERR_SUCCESS;

	if (!config->tls)
		return rc;
	if (config->ca_file == NULL)
		rc = mosquitto_int_option(mosq, MOSQ_OPT_TLS_USE_OS_CERTS, 1);
	if (rc == MOSQ_ERR_SUCCESS && (config->ca_file != NULL || config->cert_file != NULL))
		rc = mosquitto_tls_set(mosq, config->ca_file,
							   config->ca_file == NULL ? "/etc/ssl/certs" : NULL,
							   config->cert_file, config->key_file, no_passphrase);
	if (rc != MOSQ_ERR_SUCCESS)
		snprintf(error, error_size, "could not use the certificates: %s", mosquitto_strerror(rc));
	return rc;
}

/* Properties of MQTT 5 that have no call of their own for an asynchronous connection. */
static int
set_connect_properties(struct mosquitto *mosq, const IotMqttConfig *config,
					   size_t payload_limit)
{
	mosquitto_property *properties = NULL;
	uint32		max_packet = Max(4 * payload_limit, 262144) + 65536;
	int			rc;

	rc = mosquitto_property_add_int32(&properties, MQTT_PROP_SESSION_EXPIRY_INTERVAL,
									  config->clean ? 0 : SESSION_EXPIRY_S);
	if (rc == MOSQ_ERR_SUCCESS)
		rc = mosquitto_property_add_int32(&properties, MQTT_PROP_MAXIMUM_PACKET_SIZE, max_packet);
	/* fails for want of a host, but keeps the properties for the connection to come */
	if (rc == MOSQ_ERR_SUCCESS)
		(void) mosquitto_connect_bind_v5(mosq, "", 0, config->keepalive, NULL, properties);
	mosquitto_property_free_all(&properties);
	return rc;
}

/*
 * A library object that can connect, or NULL with the reason.  Callbacks are the caller's to set,
 * and the object is his to destroy.
 */
struct mosquitto *
iot_session_make(const IotMqttConfig *config, size_t payload_limit, char *error,
				 size_t error_size)
{
	struct mosquitto *mosq = mosquitto_new(config->client_id, config->clean, NULL);
	int			rc;

	if (mosq == NULL)
	{
		snprintf(error, error_size, "the client id cannot be used, or no memory is left");
		return NULL;
	}
	mosquitto_threaded_set(mosq, true);
	rc = mosquitto_int_option(mosq, MOSQ_OPT_PROTOCOL_VERSION,
							  config->v5 ? MQTT_PROTOCOL_V5 : MQTT_PROTOCOL_V311);
	/* an acknowledgement and a command after it are two small writes */
	if (rc == MOSQ_ERR_SUCCESS)
		rc = mosquitto_int_option(mosq, MOSQ_OPT_TCP_NODELAY, 1);
	/* room for the batch that is being committed and for the next */
	if (rc == MOSQ_ERR_SUCCESS)
		rc = mosquitto_int_option(mosq, MOSQ_OPT_RECEIVE_MAXIMUM,
								  Min(config->batch_size * 2, 65535));
	if (rc == MOSQ_ERR_SUCCESS)
		rc = mosquitto_max_inflight_messages_set(mosq, 0);
	if (rc == MOSQ_ERR_SUCCESS)
		rc = set_credentials(mosq, config, error, error_size);
	if (rc == MOSQ_ERR_SUCCESS)
		rc = set_tls(mosq, config, error, error_size);
	if (rc == MOSQ_ERR_SUCCESS && config->v5)
		rc = set_connect_properties(mosq, config, payload_limit);
	if (rc == MOSQ_ERR_SUCCESS)
		return mosq;
	if (error[0] == '\0')
		snprintf(error, error_size, "%s", mosquitto_strerror(rc));
	mosquitto_destroy(mosq);
	return NULL;
}
