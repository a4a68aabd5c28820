//! The gRPC contract: generated types, validators, conversions to the domain.
