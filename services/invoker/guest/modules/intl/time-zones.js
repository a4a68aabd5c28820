// Time zones of the host, asked for when one is first used.

const CALL_ZONE = 4;
const CALL_ZONE_NAMES = 5;

// What Intl.DateTimeFormat wants: [[seconds since 1970, nothing, offset in seconds, whether it is summer time], …].
const transitionsOf = (name) => JSON.parse(host.call(CALL_ZONE, name));

const zones = {};
for (const name of JSON.parse(host.call(CALL_ZONE_NAMES, ''))) {
  let transitions;
  Object.defineProperty(zones, name, { enumerable: true, get: () => (transitions ??= transitionsOf(name)) });
}

Intl.DateTimeFormat.tzData = zones;
Intl.DateTimeFormat.__setDefaultTimeZone('UTC');
