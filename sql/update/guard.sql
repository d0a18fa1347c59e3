\echo Use "ALTER EXTENSION iot UPDATE" to load this file. \quit

SET LOCAL search_path TO pg_catalog, pg_temp;
-- the tables may be older than what is said of them here, until iot.migrate() has been called
SET LOCAL check_function_bodies TO off;
