//! Records chat events durably and delivers each in conversation order.
