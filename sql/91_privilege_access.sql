-- What policies ask, whoever's query it is; without USAGE on their schema nobody calls it by name.

GRANT EXECUTE ON FUNCTION iot_internal.granted_groups(text),
	iot_internal.device_in_groups(uuid, uuid[]), iot_internal.is_user(),
	iot_internal.own_user_groups(), iot_internal.own_audiences(),
	iot_internal.told_before(uuid, bigint) TO iot_viewer, iot_operator;
