//! Writes the compiled contract to standard output, for tools such as `buf lint` and `grpcurl -protoset`.

use std::io::Write as _;

fn main() -> std::io::Result<()> {
    std::io::stdout().write_all(chatfn_proto::FILE_DESCRIPTOR_SET)
}
