-- Who may call the functions of users.  Logging in is for whoever has no token yet; the others ask
-- themselves who is asking.

GRANT USAGE ON SCHEMA iot TO iot_anon;
GRANT EXECUTE ON FUNCTION iot.login(text, text), iot.register_user(text, text, text, text),
	iot.check_request() TO iot_anon, iot_viewer, iot_operator, iot_admin;
GRANT EXECUTE ON FUNCTION iot.logout(boolean), iot.change_password(text, text)
	TO iot_viewer, iot_operator, iot_admin;
GRANT EXECUTE ON FUNCTION iot.reset_password(text, text), iot.revoke_tokens(text) TO iot_admin;
GRANT EXECUTE ON FUNCTION iot_internal.record_login_failures() TO iot_worker;
-- the push daemon asks for the tokens that it verified
GRANT EXECUTE ON FUNCTION iot_internal.token_counts(text, numeric, text) TO iot_pushd;
