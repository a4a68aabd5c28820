// HTTPClient: fetch in the calling style of the npm package request-promise, which the hosted product offered.

const { AbortSignal, Headers, URL, fetch } = globalThis;
const { addMembers, notOffered } = chatfn.toolbelt;

const NOT_OFFERED = {
  agent: 'connections are made by the platform',
  agentClass: 'connections are made by the platform',
  agentOptions: 'connections are made by the platform',
  aws: 'sign the request yourself and set its headers',
  ca: 'an operator adds certificate authorities, with --egress-ca-file',
  callback: 'await the promise',
  cert: 'client certificates are not supported',
  formData: 'build the body yourself, as text or bytes',
  hawk: 'sign the request yourself and set its headers',
  httpSignature: 'sign the request yourself and set its headers',
  jar: 'set the cookie header yourself',
  key: 'client certificates are not supported',
  localAddress: 'connections are made by the platform',
  lookup: 'names are resolved by the platform',
  maxRedirects: 'the limit is fixed; use followRedirect: false',
  multipart: 'build the body yourself, as text or bytes',
  oauth: 'sign the request with the module oauth-1.0a and set its headers',
  passphrase: 'client certificates are not supported',
  pfx: 'client certificates are not supported',
  proxy: 'calls leave directly',
  tunnel: 'calls leave directly',
};

const checkOptions = (options) => {
  for (const [name, instead] of Object.entries(NOT_OFFERED)) {
    if (options[name] !== undefined && options[name] !== null && options[name] !== false) {
      throw notOffered(`the option ${name} of HTTPClient`, instead);
    }
  }
  if (options.strictSSL === false || options.rejectUnauthorized === false) {
    throw notOffered('the option strictSSL: false of HTTPClient',
      'certificates are always checked; an operator adds certificate authorities, with --egress-ca-file');
  }
  if (typeof options.followRedirect === 'function') {
    throw notOffered('a function as option followRedirect of HTTPClient', 'use true or false');
  }
};

class RequestError extends Error {
  constructor(cause, options) {
    super(String(cause), { cause });
    this.name = 'RequestError';
    this.code = cause?.code;
    this.error = cause;
    this.options = options;
  }
}

// A message is for people: enough of the body to recognise it.
const MAX_SHOWN_CHARS = 1000;

// The mark tells the platform, too, that a secret may have been cut.
const shown = (body) => {
  const text = String(typeof body === 'string' ? body : JSON.stringify(body));
  return text.length > MAX_SHOWN_CHARS ? `${text.slice(0, MAX_SHOWN_CHARS)}…` : text;
};

class StatusCodeError extends Error {
  constructor(response, options) {
    const { statusCode, body } = response;
    super(`${statusCode} - ${shown(body)}`);
    this.name = 'StatusCodeError';
    this.statusCode = statusCode;
    this.error = body;
    this.options = options;
    this.response = response;
  }
}

class TransformError extends Error {
  constructor(cause, options, response) {
    super(String(cause), { cause });
    this.name = 'TransformError';
    this.error = cause;
    this.options = options;
    this.response = response;
  }
}

const escape = (text) => encodeURIComponent(String(text)).replace(/[!'()*]/g, (it) =>
  `%${it.charCodeAt(0).toString(16).toUpperCase()}`);

// `a[b]=1&list[0]=2`, or with `repeated` `list=2`: the two ways of request.
const queryPairs = (name, value, repeated) => {
  if (value === undefined) return [];
  if (value === null) return [`${escape(name)}=`];
  if (value instanceof Date) return [`${escape(name)}=${escape(value.toISOString())}`];
  if (typeof value !== 'object') return [`${escape(name)}=${escape(value)}`];
  return Object.entries(value).flatMap(([key, item]) =>
    queryPairs(repeated && Array.isArray(value) ? name : `${name}[${key}]`, item, repeated));
};

const stringify = (values, repeated) =>
  Object.entries(values).flatMap(([name, value]) => queryPairs(name, value, repeated)).join('&');

const buildUrl = (options) => {
  const given = options.uri ?? options.url;
  if (given === undefined || given === null) throw new Error('options.uri is a required argument');
  const text = typeof given === 'string' ? given : given.href ?? String(given);
  const base = options.baseUrl;
  const url = new URL(base === undefined ? text : `${String(base).replace(/\/$/, '')}/${text.replace(/^\//, '')}`);
  if (options.qs === undefined || options.qs === null) return url;
  for (const name of Object.keys(options.qs)) if (url.searchParams.has(name)) url.searchParams.delete(name);
  const query = stringify(options.qs, options.useQuerystring === true);
  if (query !== '') url.search = url.search === '' ? query : `${url.search}&${query}`;
  return url;
};

const basic = (user, pass) => {
  const bytes = host.encode(`${user}:${pass ?? ''}`);
  return `Basic ${bytes.toBase64()}`;
};

const authorization = async ({ user, username, pass, password, bearer }) => {
  if (bearer === undefined) return basic(user ?? username ?? '', pass ?? password);
  return `Bearer ${typeof bearer === 'function' ? await bearer() : bearer}`;
};

const setDefault = (headers, name, value) => {
  if (!headers.has(name)) headers.set(name, value);
};

// The body that is sent; sets the headers that go with it.
const buildBody = (options, headers) => {
  const { body, form, json } = options;
  if (json !== undefined && json !== false) setDefault(headers, 'accept', 'application/json');
  if (form !== undefined && form !== null) {
    setDefault(headers, 'content-type', 'application/x-www-form-urlencoded');
    return typeof form === 'string' ? form : stringify(form, options.useQuerystring === true);
  }
  const content = typeof json === 'object' && json !== null ? json : body;
  if (content === undefined || content === null) return undefined;
  if (json !== undefined && json !== false) {
    setDefault(headers, 'content-type', 'application/json');
    return JSON.stringify(content, options.jsonReplacer);
  }
  if (typeof content === 'string' || content instanceof ArrayBuffer || ArrayBuffer.isView(content)) return content;
  throw new Error('options.body must be text or bytes; to send an object use json: true');
};

const decode = async (response, encoding) => {
  if (encoding === undefined || /^utf-?8$/i.test(encoding)) return response.text();
  const bytes = new Uint8Array(await response.arrayBuffer());
  const buffer = chatfn.Buffer.from(bytes.buffer);
  return encoding === null ? buffer : buffer.toString(encoding);
};

const readBody = async (response, options) => {
  const body = await decode(response, options.encoding);
  if (options.json === undefined || options.json === false || typeof body !== 'string') return body;
  try {
    return JSON.parse(body, options.jsonReviver);
  } catch {
    return body;
  }
};

const headersOf = (response) => {
  const headers = Object.fromEntries([...response.headers].filter(([name]) => name !== 'set-cookie'));
  const cookies = response.headers.getSetCookie();
  return cookies.length === 0 ? headers : { ...headers, 'set-cookie': cookies };
};

const timedOut = (timeout) => {
  const error = new Error(`ESOCKETTIMEDOUT: no answer within ${timeout} ms`);
  error.code = 'ESOCKETTIMEDOUT';
  return error;
};

// As request has it: other methods than these are redirected only if that is asked for.
const isRedirected = (method, { followRedirect = true, followAllRedirects = false }) =>
  followAllRedirects || (followRedirect && (method === 'GET' || method === 'HEAD' || method === 'OPTIONS'));

const exchange = async (method, options) => {
  const headers = new Headers(Object.entries(options.headers ?? {}).filter(([, value]) => value !== undefined));
  if (options.auth) setDefault(headers, 'authorization', await authorization(options.auth));
  const body = buildBody(options, headers);
  const url = buildUrl(options).href;
  const init = { method, headers, body, redirect: isRedirected(method, options) ? 'follow' : 'manual' };
  const { timeout } = options;
  if (timeout === undefined || timeout === null) return { url, headers, response: await fetch(url, init) };
  try {
    return { url, headers, response: await fetch(url, { ...init, signal: AbortSignal.timeout(timeout) }) };
  } catch (error) {
    throw error?.name === 'TimeoutError' ? timedOut(timeout) : error;
  }
};

const transformed = async (response, options, isSuccess) => {
  const full = options.resolveWithFullResponse === true;
  if (typeof options.transform === 'function' && (isSuccess || options.transform2xxOnly !== true)) {
    try {
      return await options.transform(response.body, response, full);
    } catch (error) {
      throw new TransformError(error, options, response);
    }
  }
  if (full) return response;
  return response.request.method === 'HEAD' ? response.headers : response.body;
};

const send = async (options) => {
  checkOptions(options);
  const method = String(options.method ?? 'GET').toUpperCase();
  let response;
  try {
    const { url, headers, response: answer } = await exchange(method, options);
    response = {
      statusCode: answer.status,
      statusMessage: answer.statusText,
      headers: headersOf(answer),
      body: await readBody(answer, options),
      request: { method, uri: url, href: url, headers: Object.fromEntries(headers) },
    };
  } catch (error) {
    throw new RequestError(error, options);
  }
  const isSuccess = response.statusCode >= 200 && response.statusCode <= 299;
  if (!isSuccess && options.simple !== false) {
    const error = new StatusCodeError(response, options);
    if (typeof options.transform === 'function' && options.transform2xxOnly !== true) {
      error.response = await transformed(response, options, false);
    }
    throw error;
  }
  return transformed(response, options, isSuccess);
};

const toOptions = (target, options) =>
  (typeof target === 'string' || target instanceof URL ? { ...options, uri: target } : { ...target, ...options });

const client = (defaults) => {
  const call = (fixed) => (target, options, callback) => {
    chatfn.onlyInRuns('HTTPClient');
    const given = toOptions(target, typeof options === 'function' ? { callback: options } : options);
    const merged = { ...defaults, ...given, ...fixed };
    if (defaults.headers || given.headers) merged.headers = { ...defaults.headers, ...given.headers };
    if (callback !== undefined) merged.callback = callback;
    return send(merged);
  };
  const any = call({});
  // Without arguments it is the older sources' factory, and gives the client that it is itself.
  function HTTPClient(...args) {
    return args.length === 0 ? HTTPClient : any(...args);
  }
  const method = (name) => call({ method: name });
  return Object.assign(HTTPClient, {
    get: method('GET'),
    head: method('HEAD'),
    options: method('OPTIONS'),
    post: method('POST'),
    put: method('PUT'),
    patch: method('PATCH'),
    del: method('DELETE'),
    delete: method('DELETE'),
    defaults: (more) => client({ ...defaults, ...more, headers: { ...defaults.headers, ...more.headers } }),
  });
};

addMembers({ HTTPClient: client({}) });
