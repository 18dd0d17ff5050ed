//! What a program on tungstenite shows of a connection: tungstenite-client URL TOKEN. See clients/README.md.
use tungstenite::{client::IntoClientRequest, connect, Error, Message};

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let mut request = args[1].as_str().into_client_request().expect("a URL");
    let bearer = format!("Bearer {}", args[2]).parse().expect("a token");
    request.headers_mut().insert("Authorization", bearer);
    println!("shown {}", talk(request));
}

fn talk(request: tungstenite::handshake::client::Request) -> String {
    let mut socket = match connect(request) {
        Ok((socket, _)) => socket,
        Err(Error::Http(response)) => {
            let challenge = response.headers().get("WWW-Authenticate").and_then(|v| v.to_str().ok()).unwrap_or("");
            let word = challenge.split("error_description=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or("");
            return format!("`Error::Http` {} {word}", response.status().as_u16());
        }
        Err(err) => return err.to_string(),
    };
    println!("open");
    let mut closed = None;
    loop {
        match socket.read() {
            Ok(Message::Close(Some(frame))) => closed = Some(format!("`Message::Close` {} \"{}\"", u16::from(frame.code), frame.reason)),
            Ok(_) => {}
            Err(err) => return closed.unwrap_or(format!("`Error`: {err}")),
        }
    }
}
