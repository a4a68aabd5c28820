//! Why calls fail: `ErrorInfo.reason` of the domain `chatfn`.

use super::reasons;

reasons! {
    // Every service, before a method is reached.
    GRPC_TIMEOUT_MALFORMED: "INVALID_ARGUMENT", "every service", No,
        "The `grpc-timeout` header breaks the gRPC specification." =>
        "Send 1 to 8 digits and a unit, such as `250m`; gRPC libraries do so by themselves.";
    MESSAGE_UNREADABLE: "INVALID_ARGUMENT", "every service", No,
        "The request is not a message of the method, or nests more than 100 levels of messages: a payload of 33 levels as a `Struct`." =>
        "Build it from this release's contract; send deep payloads as `payload_json`.";
    MESSAGE_TOO_LARGE: "OUT_OF_RANGE", "every service", No,
        "The request has more than 4 MiB." =>
        "Send less at once.";
    DEADLINE_EXCEEDED: "DEADLINE_EXCEEDED", "every service", Idempotent,
        "The call's deadline passed before the answer was ready, or the database took longer than its time limit." =>
        "Give the call more time, or ask for less. What may have been done is found by reading, or by repeating it with the same `request_id` or event id.";
    BUDGET_TOO_SMALL: "DEADLINE_EXCEEDED", "every service", Yes,
        "Too little time was left to start; nothing was done." =>
        "Give the call a later deadline.";
    SERVER_BUSY: "RESOURCE_EXHAUSTED", "every service", Yes,
        "As many calls as allowed (`--rpc-max-calls`) are in progress, or their messages take as much as they may (`--rpc-max-request-kib`)." =>
        "Try again after `RetryInfo.retry_delay`. If it lasts, add replicas.";
    SERVER_DRAINING: "UNAVAILABLE", "every service", Idempotent,
        "The server shuts down and ended the call, which may have had effects." =>
        "Call again; another replica answers.";
    CONNECTION_FAILED: "UNAVAILABLE", "every service, as a client", Yes,
        "No connection could be made, or none within the call's time, or the server did not take the call." =>
        "Try again. If it lasts, see whether the server runs and whether address, certificates and network policy are right.";
    CONNECTION_LOST: "UNAVAILABLE", "every service, as a client", Idempotent,
        "The connection was lost during the call, which may have had effects." =>
        "Repeat what is recognised the second time; otherwise read first.";
    TOKEN_MISSING: "UNAUTHENTICATED", "every service", No,
        "The call has neither a token nor a service's certificate." =>
        "Send `authorization: Bearer <token>`.";
    TOKENS_NOT_ACCEPTED: "UNAUTHENTICATED", "every service", No,
        "The server accepts no tokens, only services' certificates." =>
        "Its operator sets `--token-keys`, `--token-issuer` and `--token-audience`.";
    TOKEN_MALFORMED: "UNAUTHENTICATED", "every service", No,
        "What the `authorization` header holds is not one bearer token in the form of a signed JSON Web Token." =>
        "Send the token as its issuer gave it, once.";
    TOKEN_KEY_UNKNOWN: "UNAUTHENTICATED", "every service", No,
        "The key that the token names (`kid`) is not among those of `--token-keys`." =>
        "Get a new token, or put the issuer's current keys into the file.";
    TOKEN_SIGNATURE_INVALID: "UNAUTHENTICATED", "every service", No,
        "The token was not signed by the key and with the algorithm that it names." =>
        "Get a new token from its issuer.";
    TOKEN_EXPIRED: "UNAUTHENTICATED", "every service", No,
        "The token has expired (`exp`); a stream ends with it, too." =>
        "Get a new token from its issuer.";
    TOKEN_NOT_YET_VALID: "UNAUTHENTICATED", "every service", No,
        "The token is not valid yet (`nbf`)." =>
        "Wait, or set the clocks right; `--token-leeway` says how far they may be apart.";
    TOKEN_ISSUER_WRONG: "UNAUTHENTICATED", "every service", No,
        "The token is of another issuer than `--token-issuer`." =>
        "Get one of the issuer that the message names.";
    TOKEN_AUDIENCE_WRONG: "UNAUTHENTICATED", "every service", No,
        "The token is for another audience than `--token-audience`." =>
        "Get one for the audience that the message names.";
    TOKEN_CLAIMS_INVALID: "UNAUTHENTICATED", "every service", No,
        "The token lacks a claim, or one has not the form that it must have." =>
        "Have its issuer put `iss`, `aud`, `exp`, `sub`, `account` and `roles` into it, as SECURITY.md says.";
    CERTIFICATE_EXPIRED: "UNAUTHENTICATED", "every service", No,
        "The service's certificate has expired since it connected; a stream ends with it, too." =>
        "Put a new certificate in place; the service reads it, and connects again, by itself.";
    ROLE_REQUIRED: "PERMISSION_DENIED", "every service", No,
        "The token has none of the roles that the method, or the change of this field, is for." =>
        "Use a token with a role of `roles`, or have someone with that role do it; leave the field `field` as it is.",
        {"roles", "field"};
    SERVICE_REQUIRED: "PERMISSION_DENIED", "every service", No,
        "The method, or this way to call it, is for other services of the cluster, which prove by certificate who they are." =>
        "Nothing that a person needs is behind it. If a service gets it: compare its certificate's name and the trust domain with SECURITY.md.",
        {"services"};
    METHOD_UNKNOWN: "UNIMPLEMENTED", "every service", No,
        "There is no such method here." =>
        "Ask the right service; `grpcurl … list` says what one has. Between services: both must be of releases that fit.";
    INTERNAL: "INTERNAL", "every service", Idempotent,
        "A bug or a broken dependency of chatfn. What it was is not for callers." =>
        "Give `error_id` to the operator: the server's log has the causes under it.",
        {"error_id"};

    // Requests.
    INVALID_REQUEST: "INVALID_ARGUMENT", "every service", No,
        "Fields break the rules of the contract; `BadRequest` names each with what it should be." =>
        "Correct the fields.";
    INVALID_PAGE_TOKEN: "INVALID_ARGUMENT", "registry, event-ingest", No,
        "The page token, or the token to resume a stream, is not one that was given for this list and filter." =>
        "Leave it empty to start from the first page, or with what happens now.";
    REQUEST_ID_REUSED: "INVALID_ARGUMENT", "registry, event-ingest", No,
        "The `request_id` was used for another request." =>
        "Make up a new one for every change.";
    STORE_UNAVAILABLE: "UNAVAILABLE", "registry, event-ingest", Idempotent,
        "The database cannot be reached or is too busy. The registry has changed nothing; whether an event was recorded may be unknown, and publishing it again is safe." =>
        "Try again after `RetryInfo.retry_delay`. If it lasts, look at Postgres and at the service's log.";
    NO_SNAPSHOT: "UNAVAILABLE", "invoker, event-ingest", Yes,
        "The service has just started and does not know yet what is live." =>
        "Try again. If it lasts, the registry cannot be reached from there: see the service's log.";
    OVERLOADED: "RESOURCE_EXHAUSTED", "every service", Yes,
        "All runs or preparations of the invoker are in use, or more events arrive than event-ingest can record; nothing was done." =>
        "Try again after `RetryInfo.retry_delay`. If it lasts, add replicas.";
    LOADING_TOO_SLOW: "RESOURCE_EXHAUSTED", "invoker", Yes,
        "The live version could not be loaded in time, for want of processors or of a sandbox; nothing was done." =>
        "Try again after `RetryInfo.retry_delay`. If it lasts for one function, have its top-level code do less; if it lasts for \
         many, add replicas.";
    ACCOUNT_BUSY: "RESOURCE_EXHAUSTED", "every service", Yes,
        "The account has more than its share of the runs, preparations or calls in progress; nothing was done." =>
        "Try again after `RetryInfo.retry_delay`; publish many events per call, or over a stream.",
        {"account"};
    ACCOUNT_NOT_FOUND: "NOT_FOUND", "every service", No,
        "The token is not for this account. Whether there is one is told to nobody else." =>
        "Use a token of the account, or name the account that the token is for.";
    TEMPLATE_NOT_FOUND: "NOT_FOUND", "every service", No,
        "There is no such template." =>
        "`TemplateService.ListTemplates` lists those that there are.";

    // Registry.
    FUNCTION_NOT_FOUND: "NOT_FOUND", "registry, invoker", No,
        "There is no such function, or it is not the caller's account's." =>
        "Create it with `FunctionService.CreateFunction`, or look for its name with `ListFunctions`.";
    VERSION_NOT_FOUND: "NOT_FOUND", "registry", No,
        "The function has no such version, or no more: the newest 100 are kept." =>
        "`FunctionService.ListVersions` lists those that there are.";
    FUNCTION_EXISTS: "ALREADY_EXISTS", "registry", No,
        "The account has a function for this template, and may have only one." =>
        "Update the one of `ResourceInfo`, or put both behaviours into the same lambda.";
    FUNCTION_DEPLOYED: "FAILED_PRECONDITION", "registry", No,
        "A function that is deployed cannot be deleted." =>
        "Call `UndeployFunction`, then delete it.";
    ETAG_MISMATCH: "ABORTED", "registry", No,
        "The function, its draft or the secret has changed since it was read." =>
        "Read it again, and redo the change with the new `etag`.",
        {"current_etag"};
    BUILD_FAILED: "FAILED_PRECONDITION", "registry", No,
        "The source does not build, so nothing was deployed; what was live stays live." =>
        "Correct the source at `line` and `column`; `kind` is one of the build errors below.",
        {"kind", "line", "column"};
    INVOKER_UNAVAILABLE: "UNAVAILABLE", "registry", Yes,
        "No invoker could be asked to prepare the source; nothing changed." =>
        "Try again. If it lasts, see whether an invoker serves, and whether the registry's `--invoker` is right.";
    SECRET_NOT_FOUND: "NOT_FOUND", "registry", No,
        "The account has no such secret." =>
        "Set it with `SecretService.SetSecret`.";
    SECRET_LIMIT_REACHED: "RESOURCE_EXHAUSTED", "registry", Yes,
        "The account has as many secrets as it may have." =>
        "Delete one first.";
    SECRETS_DISABLED: "FAILED_PRECONDITION", "registry", No,
        "The registry has no keys to encrypt secrets with." =>
        "Its operator sets `--secret-keys-file`.";
    SECRET_KEY_MISSING: "FAILED_PRECONDITION", "registry", No,
        "The secret is encrypted with a key that the registry does not have." =>
        "Add the key `key_id` to the file of `--secret-keys-file` again, or set the secret anew.",
        {"key_id"};
    WATCHER_TOO_SLOW: "RESOURCE_EXHAUSTED", "registry", Yes,
        "The watcher of deployments fell too far behind, or read nothing for too long." =>
        "Watch again, with the last resume token.";
    REVISION_WENT_BACK: "UNAVAILABLE", "registry", Yes,
        "The database was replaced by an older one, so that nobody can go on from where they are." =>
        "Watch again, without a resume token.";
    OUTCOME_UNKNOWN: "UNKNOWN", "registry", Idempotent,
        "The connection to the database was lost while a change was committed." =>
        "Repeat it with the same `request_id`, or read before repeating it.";

    // Invoker.
    FUNCTION_NOT_DEPLOYED: "NOT_FOUND", "invoker", No,
        "No version of the function is live." =>
        "Deploy it with `FunctionService.DeployFunction`.";
    REGISTRY_UNAVAILABLE: "UNAVAILABLE", "invoker", Yes,
        "The registry could not be asked for the draft; nothing ran." =>
        "Try again. If it lasts, see whether the registry serves, and whether the invoker's `--registry` is right.";
    DRAFT_UNREADABLE: "FAILED_PRECONDITION", "invoker", No,
        "The draft has settings that this invoker's release does not know; nothing ran." =>
        "Upgrade the invokers to the registry's release.";

    // Event-ingest.
    CALLER_BUSY: "RESOURCE_EXHAUSTED", "event-ingest", Yes,
        "The caller has too many streams open over which no event has come yet." =>
        "End some, or open each when there is an event to send.";
    QUOTA_EXCEEDED: "RESOURCE_EXHAUSTED", "event-ingest", Yes,
        "The account has published as much as it may per second; nothing was recorded." =>
        "Publish it again after `RetryInfo.retry_delay`, or have the operator raise `quota` for `account` (`--account-quotas-file`).",
        {"account", "quota"};
    DRAINING: "UNAVAILABLE", "event-ingest", Yes,
        "This replica shuts down; nothing was recorded." =>
        "Publish the event again: another replica takes it.";
    STREAM_AGED: "UNAVAILABLE", "event-ingest", Idempotent,
        "Streams are ended after `--stream-max-age`, so that they spread over the replicas." =>
        "Open another one, and send again what was not answered.";
    STREAM_IDLE: "UNAVAILABLE", "event-ingest", Yes,
        "No event came over the stream for `--stream-idle`." =>
        "Open another one when there is an event.";
    EVENT_ID_REUSED: "ALREADY_EXISTS", "event-ingest", No,
        "The event id is that of another event, with another content, that was published before." =>
        "Choose a new id, or publish the event unchanged.";
    OCCUR_TIME_OUT_OF_RANGE: "OUT_OF_RANGE", "event-ingest", No,
        "The event happened before the days for which events are kept (`--retention-days`), so that nobody knows whether it was recorded; or it is to happen yet." =>
        "Correct the publisher's clock, or leave `occur_time` out: the event runs then, even if it has run before.";
    PAYLOAD_SCHEMA: "INVALID_ARGUMENT", "event-ingest", No,
        "The payload does not satisfy the template's schema; `BadRequest` names each place." =>
        "Correct the payload; `TemplateService.GetTemplate` has the schema and a sample.";
    PAYLOAD_TOO_DEEP: "INVALID_ARGUMENT", "event-ingest", No,
        "The payload is nested too deep." =>
        "Flatten it.";
    PAYLOAD_NOT_JSON: "INVALID_ARGUMENT", "event-ingest", No,
        "The payload is not the text of a JSON object." =>
        "Send a JSON object in UTF-8.";
    DELIVERY_NOT_FOUND: "NOT_FOUND", "event-ingest", No,
        "There is no event of this id, or it is older than `--retention-days`." =>
        "Look for it with `DeliveryService.ListDeliveries`.";
    CONVERSATION_NOT_FOUND: "NOT_FOUND", "event-ingest", No,
        "The conversation is not one of the caller's account." =>
        "Correct the name.";
    REPLAY_NOT_FOUND: "NOT_FOUND", "event-ingest", No,
        "There is no replay of this id." =>
        "Look for it with `ReplayService.ListReplays`.";
    NOT_HALTED: "FAILED_PRECONDITION", "event-ingest", No,
        "The conversation, or the event, is not halted, and only what is halted can be resumed or skipped." =>
        "If another event of the conversation is halted, act on that one. To run an event again that has its outcome, replay it.";
    INTERVENTION_PENDING: "ABORTED", "event-ingest", Yes,
        "Another operator has asked for something else, which is not done yet." =>
        "Look at it again in a second.";
    TOO_MANY_REPLAYS: "RESOURCE_EXHAUSTED", "event-ingest", Yes,
        "The account has as many replays in progress as it may have." =>
        "Wait until one is done, or cancel one.";
    TOO_MANY_TAILS: "RESOURCE_EXHAUSTED", "event-ingest", Yes,
        "The account has its share of the streams of deliveries of this replica." =>
        "End one, or list deliveries instead.";
    TAIL_TOO_SLOW: "RESOURCE_EXHAUSTED", "event-ingest", Yes,
        "The reader of a stream of deliveries read nothing for too long." =>
        "Call again with the `resume_token` of the last response that was read.";
}
