-- Functions that everything else leans on.

CREATE OR REPLACE FUNCTION iot_internal.uuidv7() RETURNS uuid
LANGUAGE c VOLATILE PARALLEL SAFE AS 'MODULE_PATHNAME', 'iot_uuidv7_sql';

CREATE OR REPLACE FUNCTION iot_internal.current_username() RETURNS text
LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'iot_current_username_sql';

CREATE OR REPLACE FUNCTION iot_internal.is_admin() RETURNS boolean
LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'iot_is_admin_sql';

CREATE OR REPLACE FUNCTION iot_internal.is_authenticator() RETURNS boolean
LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'iot_is_authenticator_sql';

CREATE OR REPLACE FUNCTION iot_internal.reads_files() RETURNS boolean
LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'iot_reads_files_sql';
