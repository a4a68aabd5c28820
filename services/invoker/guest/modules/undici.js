// What functions of the hosted product use of undici: the standard's fetch, which is global here.
const { fetch, Headers, Request, Response, FormData } = globalThis;

module.exports = { fetch, Headers, Request, Response, FormData };
