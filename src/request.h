/*
 * request.h
 *		What a request over REST says besides its arguments.
 */
#ifndef IOT_REQUEST_H
#define IOT_REQUEST_H

#include "utils/uuid.h"

extern bool iot_request_id(pg_uuid_t *request_id);

#endif							/* IOT_REQUEST_H */
