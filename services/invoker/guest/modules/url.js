// Node's url: the standard's URL, which the host parses, and the older functions from the package of that name.
const legacy = require('../node_modules/url/url.js');

const { URL, URLSearchParams } = globalThis;

const toAscii = (domain) => URL.parse(`ws://${domain}`)?.hostname ?? '';

module.exports = {
  URL,
  URLSearchParams,
  Url: legacy.Url,
  parse: legacy.parse,
  resolve: legacy.resolve,
  format: (url, options = {}) => {
    if (!(url instanceof URL)) return legacy.format(url);
    const copy = new URL(url);
    if (options.auth === false) copy.username = copy.password = '';
    if (options.fragment === false) copy.hash = '';
    if (options.search === false) copy.search = '';
    return copy.href;
  },
  domainToASCII: toAscii,
  urlToHttpOptions: (url) => {
    const options = {
      protocol: url.protocol,
      hostname: url.hostname.replace(/^\[(.*)\]$/, '$1'),
      hash: url.hash,
      search: url.search,
      pathname: url.pathname,
      path: `${url.pathname}${url.search}`,
      href: url.href,
    };
    if (url.port !== '') options.port = Number(url.port);
    if (url.username !== '' || url.password !== '') {
      options.auth = `${decodeURIComponent(url.username)}:${decodeURIComponent(url.password)}`;
    }
    return options;
  },
};
