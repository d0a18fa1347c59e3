-- Who may call the functions of the push daemon.

GRANT EXECUTE ON FUNCTION iot_internal.push_hello(), iot_internal.push_authorize(text, numeric, text),
	iot_internal.push_recheck(text[], numeric[], text[]),
	iot_internal.push_since(text[], bigint, integer),
	iot_internal.push_pending(text[], bigint, bigint, integer),
	iot_internal.push_values(jsonb, integer),
	iot_internal.push_delivered(bigint[], text[]) TO iot_pushd;
