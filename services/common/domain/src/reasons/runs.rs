//! Why something that a lambda asked for came to nothing: `OutboundCall.error_reason`, and `code` of the JavaScript error.

use super::reasons;

reasons! {
    // fetch and HttpClient.
    INVALID_URL: "fetch", "invoker", No,
        "The text is no URL, or one that a lambda may not use." => "Correct the URL.";
    UNSUPPORTED_SCHEME: "fetch", "invoker", No,
        "The URL is neither `http` nor `https`." => "Use one of these.";
    INVALID_REQUEST: "fetch", "invoker", No,
        "The method, a header or the body cannot be sent." => "Correct what the message names.";
    REQUEST_TOO_LARGE: "fetch", "invoker", No,
        "The request's body or headers are too large." => "Send less, or have the operator raise `--egress-body-bytes`.";
    HOST_NOT_ALLOWED: "fetch", "invoker", No,
        "The function's settings do not name the host." => "Have an admin add it to `settings.allowed_hosts`, and deploy.";
    ADDRESS_NOT_ALLOWED: "fetch", "invoker", No,
        "The host is at an address that lambdas may not reach: private, loopback, link-local or denied." =>
        "If lambdas are to reach it, the operator permits the range with `--egress-allow-cidr`.";
    DNS_FAILED: "fetch", "invoker", Yes,
        "The name has no address, or the name servers did not say." =>
        "Correct the name; or the operator looks at the invoker's name servers (`--egress-name-server`).";
    CONNECT_FAILED: "fetch", "invoker", Yes,
        "No connection to the host." => "See whether it runs, and whether a network policy is in the way.";
    TLS_FAILED: "fetch", "invoker", No,
        "The server is not who the URL says, or does not speak TLS." =>
        "Mend its certificate, or the operator adds its authority (`--egress-ca-file`).";
    EXCHANGE_FAILED: "fetch", "invoker", Idempotent,
        "The connection broke during the exchange, or what came is not HTTP." =>
        "The server may have acted on it: the `Idempotency-Key` is the same in a retry.";
    TOO_MANY_REDIRECTS: "fetch", "invoker", No,
        "More redirects than fetch follows." => "Call the address where they should end.";
    REDIRECT_REFUSED: "fetch", "invoker", No,
        "A redirect although the lambda said `redirect: \"error\"`." =>
        "Call the address that it leads to, or follow redirects.";
    RESPONSE_TOO_LARGE: "fetch", "invoker", No,
        "The response's body is larger than allowed." => "Ask for less, or have the operator raise `--egress-body-bytes`.";
    HEADERS_TOO_LARGE: "fetch", "invoker", No,
        "The response's headers are larger or more than allowed." => "The server must send fewer.";
    UNSUPPORTED_ENCODING: "fetch", "invoker", No,
        "The response is compressed although none was asked for." => "The server must heed `accept-encoding: identity`.";
    RATE_LIMITED: "fetch, secrets", "invoker", Yes,
        "The function called more often than it may (`--egress-rate`), or its account asked for secrets more often than 200 times per second." =>
        "Spread the calls out; read secrets without `useCache: false`.";
    OVERLOADED: "fetch", "invoker", Yes,
        "The invoker has as many connections, or holds as many bytes of responses (`--egress-buffer-bytes`), as it may, or the account has its share." =>
        "Try again; ask for less at once.";
    DEADLINE: "fetch", "invoker", Idempotent,
        "The run's deadline passed while the call waited." =>
        "Give the function more time (`settings.timeout`), or the call less, by an `AbortSignal`.";
    ABORTED: "fetch", "invoker", Idempotent,
        "The lambda gave the call up, or the run ended." => "Await the call, if it was not meant to be given up.";
    EGRESS_FORBIDDEN: "fetch, secrets, functions", "invoker", No,
        "Nothing outside can be asked for here: a source is only being prepared." => "Ask inside the lambda.";

    // The toolbelt's LpClient.
    SERVICE_URL_NOT_SET: "LpClient", "invoker", No,
        "The operator has set no address of the chat platform." => "The operator sets `--lp-base-url`.";
    SERVICE_NAME_INVALID: "LpClient", "invoker", No,
        "The name of the service is not 1 to 63 letters and digits." => "Correct it, such as `msgHist`.";

    // The toolbelt's SecretClient.
    SECRET_KEY_INVALID: "secrets", "invoker", No,
        "No secret can have this key." => "Correct the key.";
    SECRET_NOT_FOUND: "secrets", "invoker", No,
        "The account has no secret of this key." => "An admin of the account sets it with `SecretService.SetSecret`.";
    SECRET_TIMED_OUT: "secrets", "invoker", Yes,
        "The secret could not be read in time." => "Try again, or give `readSecret` a longer timeout.";
    SECRETS_UNAVAILABLE: "secrets", "invoker", Yes,
        "The registry cannot be reached, and no value is remembered." => "Try again; the operator looks at the registry.";
    SECRET_REFUSED: "secrets", "invoker", No,
        "The registry does not give secrets to this invoker." =>
        "The operator compares the invoker's certificate, and `--serve-secret-access` of the registry.";
    TOO_MANY_SECRETS: "secrets", "invoker", No,
        "The run asked for more different secrets than it may." => "Read fewer, or put several values into one.";

    // Functions that a function invokes: did not run.
    FUNCTION_NAME_INVALID: "functions", "invoker", No,
        "The name is not that of a function of this account." => "Give its template, such as `chat.end`.";
    PAYLOAD_INVALID: "functions", "invoker", No,
        "The payload is not JSON, or too large." => "Correct it.";
    NESTED_TOO_DEEP: "functions", "invoker", No,
        "Functions invoke one another too many levels deep." => "See whether they go in circles.";
    TOO_MANY_FUNCTIONS: "functions", "invoker", Yes,
        "As many functions as allowed run because others invoked them." =>
        "Invoke fewer at once; the operator may raise `--max-children`.";
    FUNCTION_NOT_DEPLOYED: "functions", "invoker", No,
        "The function is not deployed." => "Deploy it.";
    BUDGET_TOO_SMALL: "functions", "invoker", Yes,
        "Too little of the run's time is left to run another function." =>
        "Invoke it earlier, or give the function more time.";
    NOT_LOADABLE: "functions", "invoker", No,
        "The live version cannot be loaded by this engine." => "Correct it and deploy it again, or deploy an older version.";
    PLATFORM_FAILED: "functions", "invoker", Idempotent,
        "The platform failed to run it." => "Try again; the invoker's log says more.";

    // Functions that a function invokes: ran and failed.
    THROWN: "functions", "invoker", Idempotent,
        "It threw." => "See the message; correct it.";
    TIMEOUT: "functions", "invoker", Idempotent,
        "It ran into its deadline." => "Give it more time, or have it do less.";
    OUT_OF_MEMORY: "functions", "invoker", Idempotent,
        "It used more memory than it may." => "Raise its `settings.memory_mib`, or have it keep less.";
    NEVER_SETTLES: "functions", "invoker", Idempotent,
        "It waits for a promise that nothing can settle." => "Settle or drop the promise.";
    RESULT_TOO_LARGE: "functions", "invoker", Idempotent,
        "What it returned is larger than allowed." => "Return less.";
    RESULT_NOT_JSON: "functions", "invoker", Idempotent,
        "What it returned cannot be written as JSON." => "Return plain data.";
    CRASHED: "functions", "invoker", Idempotent,
        "Its sandbox broke down and was discarded." => "Report it, with the source.";
}
