"""A clock of the engine that leaps when a test says so."""

LEAP = """
    CREATE TABLE nodekit.leap (seconds double precision);
    INSERT INTO nodekit.leap VALUES (0);
    CREATE OR REPLACE FUNCTION nodekit.engine_time() RETURNS double precision LANGUAGE sql VOLATILE AS $$
        SELECT extract(epoch FROM clock_timestamp())::double precision + (SELECT seconds FROM nodekit.leap)
    $$;
"""
"""Statements after which the clock is ahead by `seconds` of the table `leap`."""
