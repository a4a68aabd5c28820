// luxon. It finds out the offset of a time zone by formatting a date and reading what it wrote; the host just knows it.
const luxon = require('luxon');

const CALL_ZONE_OFFSET = 6;

Object.defineProperty(luxon.IANAZone.prototype, 'offset', {
  value(time) {
    if (!this.isValid) return NaN;
    const at = Number(time);
    return Number.isNaN(at) ? NaN : Number(host.call(CALL_ZONE_OFFSET, `${at} ${this.name}`)) / 60;
  },
  writable: true,
  configurable: true,
});

Object.defineProperty(luxon.IANAZone, 'isValidZone', {
  value: (zone) => Boolean(zone) && host.call(CALL_ZONE_OFFSET, `0 ${zone}`) !== null,
  writable: true,
  configurable: true,
});

module.exports = luxon;
