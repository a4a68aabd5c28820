//! The built-in modules and libraries.

use serde_json::json;

use crate::support::result;

/// What an async lambda with this body returns.
async fn eval(body: &str) -> serde_json::Value {
    result(&format!("async function lambda() {{ {body} }}"), "null").await
}

#[tokio::test]
async fn every_module_is_there_for_require_and_import() {
    for (name, export, with_prefix) in [
        ("assert", "strictEqual", true),
        ("buffer", "Buffer", true),
        ("crypto", "createHmac", true),
        ("events", "EventEmitter", true),
        ("path", "join", true),
        ("process", "nextTick", true),
        ("querystring", "parse", true),
        ("timers", "setTimeout", true),
        ("timers/promises", "setTimeout", true),
        ("url", "URL", true),
        ("util", "promisify", true),
        ("es-toolkit", "chunk", false),
        ("jsonwebtoken", "sign", false),
        ("lodash", "map", false),
        ("luxon", "DateTime", false),
        ("undici", "fetch", false),
    ] {
        let mut names = vec![name.to_owned()];
        names.extend(with_prefix.then(|| format!("node:{name}")));
        for name in names {
            let source = format!(
                "import {{ {export} }} from '{name}'; import whole from '{name}'; import * as all from '{name}';
                 export async function lambda() {{
                   return [typeof {export}, whole.{export} === {export}, all.{export} === {export}, all.default === whole];
                 }}"
            );
            assert_eq!(result(&source, "1").await, json!(["function", true, true, true]), "import {name}");
            let source = format!(
                "const {{ {export}: it }} = require('{name}');
                 async function lambda() {{ return typeof it + typeof require('{name}').{export} }}"
            );
            assert_eq!(result(&source, "1").await, json!("functionfunction"), "require {name}");
        }
    }
}

#[tokio::test]
async fn hashes_match_their_test_vectors() {
    // NIST's and RFC 1321's "abc", in one update and in two, as hex and as base64.
    let source = "const { createHash, hash } = require('crypto');
      const digests = Object.fromEntries(['md5', 'sha1', 'sha224', 'SHA256', 'sha-384', 'RSA-SHA512'].map((name) => [name, createHash(name).update('a').update(Buffer.from('bc')).digest('hex')]));
      async function lambda() { return [digests, hash('sha1', 'abc', 'base64'), createHash('sha256').update('').digest().length] }";
    assert_eq!(
        result(source, "1").await,
        json!([
            {
                "md5": "900150983cd24fb0d6963f7d28e17f72",
                "sha1": "a9993e364706816aba3e25717850c26c9cd0d89d",
                "sha224": "23097d223405d8228642a477bda255b32aadbce4bda0b3f7e36c9da7",
                "SHA256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
                "sha-384": "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed8086072ba1e7cc2358baeca134c825a7",
                "RSA-SHA512": "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
            },
            "qZk+NkcGgWq6PiVxeFDCbJzQ2J0=",
            32
        ])
    );
    // A million times "a" (NIST), which reaches the host in several parts.
    assert_eq!(
        eval("return require('crypto').createHash('sha256').update('a'.repeat(1e6)).digest('hex')").await,
        json!("cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0")
    );
}

#[tokio::test]
async fn hmacs_match_their_test_vectors() {
    // RFC 4231, test cases 2 and 6 (a key longer than a block), and RFC 2202's for SHA-1 and MD5.
    let hmac = |name: &str, key: &str, data: &str| eval_hmac(format!("'{name}', {key}"), data.to_owned());
    let jefe = "'Jefe'";
    let wants = "'what do ya want for nothing?'";
    for (name, key, data, expected) in [
        ("md5", jefe, wants, "750c783e6ab0b503eaa86e310a5db738"),
        ("sha1", jefe, wants, "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79"),
        ("sha256", jefe, wants, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"),
        (
            "sha512",
            jefe,
            wants,
            "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea2505549758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737",
        ),
        (
            "sha256",
            "Buffer.alloc(131, 0xaa)",
            "'Test Using Larger Than Block-Size Key - Hash Key First'",
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
        ),
    ] {
        assert_eq!(hmac(name, key, data).await, json!(expected), "{name} {key}");
    }
    // Beyond what the host takes as a key: the key's own hash must be used instead.
    let body = "const { createHash, createHmac } = require('crypto'); const key = 'k'.repeat(5000);
      const hashed = createHash('sha256').update(key).digest();
      return createHmac('sha256', key).update('x').digest('hex') === createHmac('sha256', hashed).update('x').digest('hex')";
    assert_eq!(eval(body).await, json!(true));
}

async fn eval_hmac(arguments: String, data: String) -> serde_json::Value {
    eval(&format!("return require('crypto').createHmac({arguments}).update({data}).digest('hex')")).await
}

#[tokio::test]
async fn crypto_draws_only_in_runs_and_says_what_it_lacks() {
    let body = "const crypto = require('crypto'); const failure = (call) => { try { call() } catch (error) { return [error.code, error.message] } };
      const numbers = Array.from({ length: 200 }, () => crypto.randomInt(5));
      return {
        bytes: crypto.randomBytes(16).length, many: crypto.randomBytes(100000).subarray(-16).some((byte) => byte !== 0),
        range: [Math.min(...numbers), Math.max(...numbers)], above: crypto.randomInt(10, 11),
        same: [crypto.timingSafeEqual(Buffer.from('ab'), Buffer.from('ab')), crypto.timingSafeEqual(Buffer.from('ab'), Buffer.from('ac'))],
        callback: await require('util').promisify(crypto.randomBytes)(3).then((bytes) => bytes.length),
        unknown: failure(() => crypto.createHash('whirlpool')),
        sign: failure(() => crypto.createSign('RSA-SHA256')),
        twice: failure(() => { const hash = crypto.createHash('md5'); hash.digest(); hash.digest() }),
      }";
    let got = eval(body).await;
    assert_eq!(got["bytes"], 16);
    assert_eq!(got["many"], true);
    assert_eq!((&got["range"], &got["above"]), (&json!([0, 4]), &json!(10)));
    assert_eq!(got["same"], json!([true, false]));
    assert_eq!(got["callback"], 3);
    assert!(got["unknown"][1].as_str().unwrap().contains("sha256"), "{got}");
    assert_eq!(got["sign"][0], "ERR_FEATURE_UNAVAILABLE_ON_PLATFORM");
    assert!(got["sign"][1].as_str().unwrap().contains("HS256"), "{got}");
    assert_eq!(got["twice"][0], "ERR_CRYPTO_HASH_FINALIZED");

    for call in [
        "randomBytes(8)",
        "randomInt(9)",
        "randomUUID()",
        "getRandomValues(new Uint8Array(1))",
        "randomFillSync(Buffer.alloc(1))",
    ] {
        let source = format!("require('crypto').{call}; async function lambda() {{}}");
        let error = crate::support::refusal(&source).await;
        assert!(
            matches!(error, chatfn_engine::PrepareError::ForbiddenAtTopLevel { .. }),
            "{call}: {error:?}"
        );
    }
}

#[tokio::test]
async fn json_web_tokens_are_made_and_checked() {
    // RFC 7515, appendix A.1, and the token that jwt.io shows.
    let key = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
    let rfc = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
    let body = format!(
        "const jwt = require('jsonwebtoken'); const why = (call) => {{ try {{ return call() }} catch (error) {{ return [error.name, error.message] }} }};
         const rfc = '{rfc}'; const key = Buffer.from('{key}', 'base64url');
         return {{
           jwtIo: jwt.sign({{ sub: '1234567890', name: 'John Doe', iat: 1516239022 }}, 'your-256-bit-secret'),
           rfc: jwt.verify(rfc, key, {{ ignoreExpiration: true }}),
           expired: why(() => jwt.verify(rfc, key))[0],
           forged: why(() => jwt.verify(rfc, 'another', {{ ignoreExpiration: true }})),
           round: ['HS256', 'HS384', 'HS512'].map((algorithm) => jwt.verify(jwt.sign({{ a: 1 }}, 'k', {{ algorithm, expiresIn: '1h' }}), 'k', {{ algorithms: [algorithm] }}).a),
           rs: why(() => jwt.sign({{}}, '-----BEGIN PRIVATE KEY-----\\nMA==\\n-----END PRIVATE KEY-----', {{ algorithm: 'RS256' }})),
           none: why(() => jwt.verify('eyJhbGciOiJub25lIn0.e30.', 'k'))[0],
         }}"
    );
    let got = eval(&body).await;
    assert_eq!(
        got["jwtIo"],
        "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIiwibmFtZSI6IkpvaG4gRG9lIiwiaWF0IjoxNTE2MjM5MDIyfQ.SflKxwRJSMeKKF2QT4fwpMeJf36POk6yJV_adQssw5c"
    );
    assert_eq!(got["rfc"], json!({"iss": "joe", "exp": 1_300_819_380, "http://example.com/is_root": true}));
    assert_eq!(got["expired"], "TokenExpiredError");
    assert_eq!(got["forged"], json!(["JsonWebTokenError", "invalid signature"]));
    assert_eq!(got["round"], json!([1, 1, 1]));
    assert!(got["rs"][1].as_str().unwrap().contains("HS256"), "it says what works: {got}");
    assert_eq!(got["none"], "JsonWebTokenError");
}

#[tokio::test]
async fn oauth_signs_as_its_best_known_example() {
    // https://developer.x.com/en/docs/authentication/oauth-1-0a/creating-a-signature
    let source = "import OAuth from 'oauth-1.0a'; import { createHmac } from 'node:crypto';
      const oauth = OAuth({
        consumer: { key: 'xvz1evFS4wEEPTGEFPHBog', secret: 'kAcSOqF21Fu85e7zjz7ZN2U4ZRhfV3WpwPAoE3Z7kBw' },
        signature_method: 'HMAC-SHA1',
        hash_function: (base, key) => createHmac('sha1', key).update(base).digest('base64'),
      });
      oauth.getTimeStamp = () => 1318622958;
      oauth.getNonce = () => 'kYjzVBB8Y0ZFabxSWbWovY3uYSQ2pTgmZeNu2VS4cg';
      export const lambda = async () => oauth.authorize(
        { url: 'https://api.twitter.com/1.1/statuses/update.json?include_entities=true', method: 'POST', data: { status: 'Hello Ladies + Gentlemen, a signed OAuth request!' } },
        { key: '370773112-GmHxMAgYyLbNEtIKZeRNFsMKPR9EyMZeS9weJAEb', secret: 'LswwdoUaIvS8ltyTt5jkRh4J50vUPVVHtR2YPi5kE' }).oauth_signature;";
    assert_eq!(result(source, "1").await, json!("hCtSmYh+iHYCEqBWrE7C7hYmtUk="));
}

#[tokio::test]
async fn buffers_speak_every_encoding() {
    let body = r"const text = 'grüß! 🦀'; const buffer = Buffer.from(text);
      return {
        encodings: Object.fromEntries(['utf8', 'hex', 'base64', 'base64url', 'latin1', 'utf16le', 'ascii'].map((name) => [name, Buffer.from(Buffer.from('hä?>').toString(name), name).toString(name)])),
        round: ['utf8', 'hex', 'base64', 'base64url', 'latin1', 'ucs2'].every((name) => Buffer.from(buffer.toString(name), name).equals(buffer)),
        lengths: [buffer.length, Buffer.byteLength(text), Buffer.byteLength('6a6b', 'hex'), Buffer.byteLength('YQ', 'base64url')],
        isBuffer: [Buffer.isBuffer(buffer), buffer instanceof Uint8Array, Buffer === require('buffer').Buffer, Buffer.name, Buffer.isEncoding('base64url'), Buffer.isEncoding('klingon')],
        parts: [Buffer.concat([Buffer.from('a'), Buffer.from('b')]).toString(), buffer.subarray(0, 2).toString(), buffer.slice(1, 3).toString('hex'), buffer.indexOf('ß'), buffer.includes('🦀')],
        numbers: [Buffer.from([1, 2, 3, 4]).readUInt32BE(0), Buffer.from([0xff, 0xff]).readInt16LE(0), Buffer.alloc(3, 'ab').toString()],
        broken: Buffer.from([0x61, 0xff, 0x62]).toString(), bom: Buffer.from([0xef, 0xbb, 0xbf, 0x61]).toString().length,
        written: (() => { const it = Buffer.alloc(4); return [it.write('YWJj', 'base64url'), it.toString('latin1')] })(),
        json: JSON.stringify(Buffer.from('hi')), compared: Buffer.compare(Buffer.from('a'), Buffer.from('b')),
      }";
    assert_eq!(
        eval(body).await,
        json!({
            "encodings": {"utf8": "hä?>", "hex": "68c3a43f3e", "base64": "aMOkPz4=", "base64url": "aMOkPz4", "latin1": "hÃ¤?>", "utf16le": "써㾤", "ascii": "hC$?>"},
            "round": true, "lengths": [12, 12, 2, 1],
            "isBuffer": [true, true, true, "Buffer", true, false],
            "parts": ["ab", "gr", "72c3", 4, true],
            "numbers": [16_909_060, -1, "aba"], "broken": "a\u{fffd}b", "bom": 2, "written": [3, "abc\0"],
            "json": r#"{"type":"Buffer","data":[104,105]}"#, "compared": -1,
        })
    );
}

#[tokio::test]
async fn query_strings_are_read_and_written_as_in_node() {
    let body = r"const qs = require('node:querystring');
      return [
        qs.parse('a=1&b=%C3%A4+x&a=2&c&=d&e=%zz'), qs.parse('a:1;b:2', ';', ':'), Object.keys(qs.parse('a&b&c', null, null, { maxKeys: 2 })),
        qs.stringify({ a: [1, 'x y'], b: 'ä&', c: null, d: true, e: NaN, f: 10n }), qs.stringify({ a: 1, b: 2 }, ';', ':'), qs.escape('a b'), qs.unescape('%41%'),
      ]";
    assert_eq!(
        eval(body).await,
        json!([
            {"a": ["1", "2"], "b": "ä x", "c": "", "": "d", "e": "%zz"}, {"a": "1", "b": "2"}, ["a", "b"],
            "a=1&a=x%20y&b=%C3%A4%26&c=&d=true&e=&f=10", "a:1;b:2", "a%20b", "A%"
        ])
    );
}

#[tokio::test]
async fn util_events_assert_path_and_url_do_their_work() {
    let body = r"const util = require('util'); const events = require('events'); const assert = require('assert'); const path = require('path'); const url = require('url');
      const emitter = new events.EventEmitter(); const seen = [];
      emitter.on('x', (value) => seen.push(value)).once('x', (value) => seen.push(-value)); emitter.emit('x', 1); emitter.emit('x', 2);
      const fails = (call) => { try { call(); return 'passed' } catch (error) { return error.code ?? error.name } };
      class Shown { [util.inspect.custom]() { return 'Shown!' } }
      const legacy = url.parse('https://u:p@example.com:8080/p/a?x=1&y=2#h', true);
      return {
        seen, promised: await util.promisify((a, callback) => callback(null, a + 1))(1),
        failed: await util.promisify((callback) => callback(new Error('no')))().catch((error) => error.message),
        callback: await new Promise((resolve) => util.callbackify(async (a) => a * 2)(4, (error, value) => resolve([error, value]))),
        format: util.format('%s is %d %j %%', 'x', 4, { a: 1 }), inspect: util.inspect({ deep: { a: { b: { c: { d: { e: { f: 1 } } } } } } }, { depth: 0 }), all: util.inspect([[[[[[[1]]]]]]], { depth: null }),
        custom: [util.inspect(new Shown()), util.inspect(Buffer.from('hi'))],
        deep: [util.isDeepStrictEqual({ a: [1, new Map([[1, 2]])] }, { a: [1, new Map([[1, 2]])] }), util.isDeepStrictEqual([1], ['1'])],
        types: [util.types.isDate(new Date()), util.types.isRegExp({}), util.types.isPromise(Promise.resolve()), util.types.isUint8Array(Buffer.from('')), util.types.isAsyncFunction(async () => {})],
        asserts: [fails(() => assert.deepStrictEqual({ a: 1 }, { a: 1 })), fails(() => assert.strictEqual(1, 2)), fails(() => assert(false)), fails(() => assert.throws(() => { throw new TypeError('x') }, TypeError))],
        path: [path.join('/a', '..', 'b.txt'), path.extname('x.tar.gz'), path.basename('/a/b.js', '.js')],
        legacy: [legacy.auth, legacy.port, legacy.query.y, url.resolve('http://a.com/b/c', '../d'), url.format({ protocol: 'https', host: 'x.y', query: { a: 1 } }), url.format(new URL('https://u@x.y/z#h'), { auth: false, fragment: false })],
        late: await require('timers/promises').setTimeout(1, 'late'),
      }";
    assert_eq!(
        eval(body).await,
        json!({
            "seen": [1, -1, 2], "promised": 2, "failed": "no", "callback": [null, 8],
            "format": "x is 4 {\"a\":1} %", "inspect": "{ deep: [Object] }", "all": "[ [ [ [ [ [ [ 1 ] ] ] ] ] ] ]",
            "custom": ["Shown!", "<Buffer 68 69>"], "deep": [true, false], "types": [true, false, true, true, true],
            "asserts": ["passed", "ERR_ASSERTION", "ERR_ASSERTION", "passed"], "path": ["/b.txt", ".gz", "b"],
            "legacy": ["u:p", "8080", "2", "http://a.com/d", "https://x.y?a=1", "https://x.y/z"], "late": "late",
        })
    );
}

#[tokio::test]
async fn libraries_do_their_work() {
    let source = "import _, { groupBy } from 'lodash'; import { chunk, debounce } from 'es-toolkit';
      export async function lambda() {
        return [_.VERSION, groupBy([1.2, 1.4, 2.1], Math.floor), _.get({ a: [{ b: 3 }] }, 'a[0].b'), _.merge({ a: { b: 1 } }, { a: { c: 2 } }),
          _.template.name, chunk([1, 2, 3], 2), await new Promise((resolve) => debounce(() => resolve('debounced'), 1)()),
          _.random(5, 5), _.uniq([_.random(1e9), _.random(1e9), _.random(1e9)]).length > 1];
      }";
    assert_eq!(
        result(source, "1").await,
        json!([
            "4.17.21", {"1": [1.2, 1.4], "2": [2.1]}, 3, {"a": {"b": 1, "c": 2}}, "template", [[1, 2], [3]], "debounced", 5, true
        ])
    );
}

#[tokio::test]
async fn the_image_stays_small() {
    let mib = crate::support::engine().image_bytes() as f64 / f64::from(1 << 20);
    assert!(mib < 24.0, "every sandbox starts from {mib:.1} MiB");
    println!("image: {mib:.2} MiB");
}
