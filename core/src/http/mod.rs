//! Sans-IO HTTP: bytes in, facts and bytes out. No sockets, no clock, no policy, no configuration.
