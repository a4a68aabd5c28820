// fetch, Request and Response.

const { Headers, URL } = globalThis;
const OP_FETCH = 1;
const SHOWN = 200;

const METHODS = ['DELETE', 'GET', 'HEAD', 'OPTIONS', 'PATCH', 'POST', 'PUT'];

const checkMethod = (method) => {
  const upper = String(method).toUpperCase();
  if (METHODS.includes(upper)) return upper;
  throw new TypeError(`fetch: the method '${method}' is not supported`);
};

class Request extends chatfn.Body {
  constructor(input, init = {}) {
    const from = input instanceof Request ? input : null;
    const method = checkMethod(init.method ?? from?.method ?? 'GET');
    const headers = new Headers(init.headers ?? from?.headers);
    let bytes = from === null ? null : chatfn.peekBody(from);
    if (init.body !== undefined && init.body !== null) {
      const [extracted, type] = chatfn.extractBody(init.body);
      bytes = extracted;
      if (type !== null && !headers.has('content-type')) headers.set('content-type', type);
    }
    if (bytes !== null && (method === 'GET' || method === 'HEAD')) {
      throw new TypeError(`fetch: a ${method} request has no body`);
    }
    super(bytes);
    this.url = from === null ? new URL(input).href : from.url;
    this.method = method;
    this.headers = headers;
    this.redirect = init.redirect ?? from?.redirect ?? 'follow';
    this.signal = init.signal ?? from?.signal ?? null;
    if (!['follow', 'error', 'manual'].includes(this.redirect)) throw new TypeError(`fetch: redirect '${this.redirect}' is not known`);
  }

  clone() {
    return new Request(this);
  }
}

const NO_BODY = [101, 103, 204, 205, 304];
const REDIRECTS = [301, 302, 303, 307, 308];

class Response extends chatfn.Body {
  constructor(body, { status = 200, statusText = '', headers } = {}) {
    if (!(status >= 200 && status <= 599)) throw new RangeError(`a response cannot have the status ${status}`);
    const [bytes, type] = chatfn.extractBody(body);
    if (bytes !== null && NO_BODY.includes(status)) throw new TypeError(`a response with the status ${status} has no body`);
    super(bytes);
    this.status = status;
    this.statusText = String(statusText);
    this.headers = new Headers(headers);
    if (type !== null && !this.headers.has('content-type')) this.headers.set('content-type', type);
    this.url = '';
    this.redirected = false;
    this.type = 'default';
  }

  get ok() {
    return this.status >= 200 && this.status <= 299;
  }

  clone() {
    const copy = new Response(chatfn.peekBody(this), this);
    copy.url = this.url;
    copy.redirected = this.redirected;
    return copy;
  }

  static json(value, init = {}) {
    const headers = new Headers(init.headers);
    if (!headers.has('content-type')) headers.set('content-type', 'application/json');
    return new Response(JSON.stringify(value), { ...init, headers });
  }

  static redirect(url, status = 302) {
    if (!REDIRECTS.includes(status)) throw new RangeError(`${status} is not the status of a redirect`);
    return new Response(null, { status, headers: { location: new URL(url).href } });
  }

  static error() {
    throw new TypeError('Response.error() is not supported');
  }
}

const toResponse = ({ header, body }) => {
  const response = new Response(NO_BODY.includes(header.status) ? null : body, {
    status: header.status,
    statusText: header.statusText,
    headers: header.headers,
  });
  response.url = header.url;
  response.redirected = header.redirected;
  response.type = 'basic';
  return response;
};

// A request as logs may show it: what is left out may hold secrets.
const shown = ({ method, url }) => {
  const { protocol, origin, pathname } = new URL(url);
  return `fetch ${method} ${origin === 'null' ? protocol : `${origin}${pathname}`.slice(0, SHOWN)}`;
};

const send = async (input, init) => {
  const request = new Request(input, init);
  const { signal } = request;
  if (signal !== null) signal.throwIfAborted();
  const { url, method, redirect } = request;
  const header = { url, method, redirect, headers: [...request.headers] };
  const op = chatfn.startOp(shown(request), OP_FETCH, header, chatfn.peekBody(request));
  return toResponse(await (signal === null ? op.promise : chatfn.untilAborted(op, signal)));
};

// Thrown, not a rejection: top-level code that does not await it would be deployed.
const fetch = (input, init) => {
  chatfn.onlyInRuns('fetch');
  return send(input, init);
};

chatfn.defineAll({ Request, Response, fetch });
