/*
 * mqtt_config.h
 *		What a row of iot.adapter says, checked and ready for use.
 */
#ifndef IOT_MQTT_CONFIG_H
#define IOT_MQTT_CONFIG_H

#include "utils/uuid.h"

#include "ingest.h"

/* Where the options do not say. */
#define IOT_BATCH_SIZE		4000
#define IOT_BATCH_TIME_MS	10

/* A subscription; retained says whether the broker's retained copies are wanted. */
typedef struct IotMqttFilter
{
	char	   *filter;
	bool		retained;
} IotMqttFilter;

typedef struct IotMqttConfig
{
	MemoryContext context;		/* holds all of this */
	char	   *fingerprint;	/* equal where two configurations are */
	size_t		settings_len;	/* of it: all but the device types' topics */
	char	   *name;			/* of the adapter */
	char	   *url;
	char	   *host;
	int			port;
	bool		tls;
	char	   *username;		/* NULL: none */
	char	   *password_file;	/* read at each connection, so that it can be changed */
	char	   *password;
	char	   *client_id;
	int			keepalive;		/* s */
	char	   *ca_file;
	char	   *cert_file;
	char	   *key_file;
	bool		v5;
	int			qos;
	int			number;			/* of this process, from 1 on; the first one sends commands */
	int			processes;
	IotStrangers strangers;
	int			batch_size;
	int			batch_time;		/* ms from one batch to the next while messages stream in */
	int			max_in_flight;
	bool		dynsec;			/* keep device credentials in the dynamic security plugin */
	IotMqttFilter *filters;
	int			nfilters;
	char	  **stale;			/* what the session has subscribed to besides */
	int			nstale;
	bool		clean;			/* only to end the session */
	char	   *error;			/* NULL, or why this cannot be used */
} IotMqttConfig;

/* Runs in a transaction; NULL where the row is gone or disabled. */
extern IotMqttConfig *iot_mqtt_config_read(const pg_uuid_t *adapter_id, int number,
										   const char *known);
extern void iot_mqtt_config_free(IotMqttConfig *config);

#endif							/* IOT_MQTT_CONFIG_H */
