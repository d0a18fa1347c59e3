-- Which copy of the data this is (DESIGN.md, decision 12).

CREATE OR REPLACE FUNCTION iot_internal.system_identifier() RETURNS bigint
LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'iot_system_identifier_sql';

CREATE OR REPLACE FUNCTION iot_internal.timeline() RETURNS integer
LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'iot_timeline_sql';
