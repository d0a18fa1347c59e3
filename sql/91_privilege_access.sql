-- What policies ask, whoever's query it is.  Called by name they tell people of themselves, and
-- whether a device whose id they know is in a group whose id they know, which both are random.

GRANT EXECUTE ON FUNCTION iot_internal.granted_groups(text),
	iot_internal.device_in_groups(uuid, uuid[]), iot_internal.is_user(),
	iot_internal.own_user_groups(), iot_internal.own_audiences(),
	iot_internal.told_before(uuid, bigint) TO iot_viewer, iot_operator;
