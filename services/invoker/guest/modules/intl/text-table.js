// An object of texts by name, made of one text: lines of a name, a blank and a value, in the order of the names.
module.exports = (text) => new Proxy({ __proto__: null }, {
  get(_, name) {
    let low = 0;
    let high = text.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      const start = middle === 0 ? 0 : text.lastIndexOf('\n', middle - 1) + 1;
      const end = text.indexOf('\n', middle);
      const blank = text.indexOf(' ', start);
      const found = text.slice(start, blank);
      if (found === name) return text.slice(blank + 1, end);
      if (found < name) low = end + 1;
      else high = start;
    }
    return undefined;
  },
});
