//! A client that costs little: HTTP/1.1 over one kept-alive connection, prepared request bytes, one buffer.

use std::fmt::Write as _;

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// What can go wrong with a server under load, in one line each.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The connection could not be made, or broke.
    #[error("connection: {0}")]
    Io(#[from] std::io::Error),
    /// The server's answer is not what HTTP or the contract says.
    #[error("unexpected answer: {0}")]
    Answer(String),
    /// The benchmark was called with something it cannot use.
    #[error("{0}")]
    Usage(String),
}

impl BenchError {
    /// An answer other than the one the contract promises.
    pub fn answer(what: impl Into<String>) -> Self {
        Self::Answer(what.into())
    }
}

/// Where the server is.
#[derive(Debug, Clone)]
pub struct Target {
    /// Host and port, for connecting and for the `Host` header.
    pub authority: String,
}

impl Target {
    /// Reads `http://host:port`; a path, or another scheme, is refused.
    ///
    /// # Errors
    /// [`BenchError::Usage`].
    pub fn parse(url: &str) -> Result<Self, BenchError> {
        let refused = || BenchError::Usage(format!("not an address like http://host:8080: {url}"));
        let authority = url.strip_prefix("http://").ok_or_else(refused)?;
        let authority = authority.trim_end_matches('/');
        if authority.is_empty() || authority.contains('/') {
            return Err(refused());
        }
        let port = if authority.contains(':') { "" } else { ":80" };
        Ok(Self {
            authority: format!("{authority}{port}"),
        })
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// When nobody answers.
    pub async fn connect(&self) -> Result<Connection, BenchError> {
        let stream = TcpStream::connect(&self.authority).await?;
        stream.set_nodelay(true)?;
        Ok(Connection {
            stream,
            buffer: Vec::with_capacity(16 * 1024),
        })
    }

    /// The bytes of a request with an optional token and an optional body.
    pub fn request(
        &self,
        method: &str,
        path: &str,
        token: Option<&str>,
        body: Option<(&str, &[u8])>,
    ) -> Vec<u8> {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n", self.authority);
        if let Some(token) = token {
            let _ = write!(head, "Authorization: Bearer {token}\r\n");
        }
        let (kind, body) = body.unwrap_or(("", b""));
        if !kind.is_empty() {
            let _ = write!(head, "Content-Type: {kind}\r\n");
        }
        if method != "GET" {
            let _ = write!(head, "Content-Length: {}\r\n", body.len());
        }
        head.push_str("\r\n");
        let mut request = head.into_bytes();
        request.extend_from_slice(body);
        request
    }

    /// The bytes of a request with a JSON body.
    pub fn json(&self, method: &str, path: &str, token: Option<&str>, body: &Value) -> Vec<u8> {
        let body = body.to_string();
        let body = Some(("application/json", body.as_bytes()));
        self.request(method, path, token, body)
    }

    /// The bytes of a GET.
    pub fn get(&self, path: &str, token: &str) -> Vec<u8> {
        self.request("GET", path, Some(token), None)
    }
}

/// One kept-alive connection.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// An answer; its bytes are in the connection's buffer until the next request.
#[derive(Debug)]
pub struct Answer<'a> {
    /// The HTTP status.
    pub status: u16,
    head: &'a [u8],
    /// The body.
    pub body: &'a [u8],
}

impl Answer<'_> {
    /// A header's value; names are compared whatever their case.
    pub fn header(&self, name: &str) -> Option<&str> {
        header(self.head, name)
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// When it is not.
    pub fn json(&self) -> Result<Value, BenchError> {
        serde_json::from_slice(self.body).map_err(|error| BenchError::answer(error.to_string()))
    }

    /// The body as JSON of a successful answer.
    ///
    /// # Errors
    /// When the status is no 2xx, or the body no JSON.
    pub fn success(&self) -> Result<Value, BenchError> {
        if (200..300).contains(&self.status) {
            return self.json();
        }
        let body = String::from_utf8_lossy(self.body);
        Err(BenchError::answer(format!("{} {body}", self.status)))
    }
}

/// Where the parts of an answer lie in the buffer.
struct Parts {
    status: u16,
    head: usize,
    body: std::ops::Range<usize>,
}

impl Connection {
    /// Sends a prepared request and reads the whole answer.
    ///
    /// # Errors
    /// When the connection breaks, or the answer is no HTTP.
    pub async fn send(&mut self, request: &[u8]) -> Result<Answer<'_>, BenchError> {
        self.stream.write_all(request).await?;
        self.buffer.clear();
        let head = self.read_head().await?;
        let text = &self.buffer[..head];
        let status = status(text)?;
        let length = header(text, "content-length").map(str::parse::<usize>);
        let chunked = header(text, "transfer-encoding").is_some();
        let parts = match length {
            Some(Ok(length)) => {
                self.fill(head + length).await?;
                Parts {
                    status,
                    head,
                    body: head..head + length,
                }
            }
            None if chunked => self.read_chunks(status, head).await?,
            None => Parts {
                status,
                head,
                body: head..head,
            },
            Some(Err(_)) => return Err(BenchError::answer("a bad Content-Length")),
        };
        Ok(Answer {
            status: parts.status,
            head: &self.buffer[..parts.head],
            body: &self.buffer[parts.body],
        })
    }

    /// Reads until the head is complete; answers where the body begins.
    async fn read_head(&mut self) -> Result<usize, BenchError> {
        let mut searched = 0;
        loop {
            if let Some(at) = find(&self.buffer[searched..], b"\r\n\r\n") {
                return Ok(searched + at + 4);
            }
            searched = self.buffer.len().saturating_sub(3);
            self.read_more().await?;
        }
    }

    async fn read_more(&mut self) -> Result<(), BenchError> {
        if self.stream.read_buf(&mut self.buffer).await? == 0 {
            return Err(BenchError::answer("the connection was closed"));
        }
        Ok(())
    }

    async fn fill(&mut self, length: usize) -> Result<(), BenchError> {
        while self.buffer.len() < length {
            self.read_more().await?;
        }
        Ok(())
    }

    /// Reads chunks and moves them together behind the head.
    async fn read_chunks(&mut self, status: u16, head: usize) -> Result<Parts, BenchError> {
        let (mut read, mut end) = (head, head);
        loop {
            let line = loop {
                if let Some(at) = find(&self.buffer[read..], b"\r\n") {
                    break read + at;
                }
                self.read_more().await?;
            };
            let size = std::str::from_utf8(&self.buffer[read..line]).unwrap_or("");
            let size = size.split(';').next().unwrap_or("").trim();
            let size = usize::from_str_radix(size, 16)
                .map_err(|_| BenchError::answer("a bad chunk size"))?;
            let start = line + 2;
            self.fill(start + size + 2).await?;
            if size == 0 {
                let body = head..end;
                return Ok(Parts { status, head, body });
            }
            self.buffer.copy_within(start..start + size, end);
            end += size;
            read = start + size + 2;
        }
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|w| w == wanted)
}

fn status(head: &[u8]) -> Result<u16, BenchError> {
    let digits = head.get(9..12).and_then(|d| std::str::from_utf8(d).ok());
    digits
        .and_then(|digits| digits.parse().ok())
        .ok_or_else(|| BenchError::answer("no HTTP status"))
}

fn header<'a>(head: &'a [u8], name: &str) -> Option<&'a str> {
    head.split(|&byte| byte == b'\n').find_map(|line| {
        let (key, value) = line.split_at_checked(name.len())?;
        let value = value.strip_prefix(b":")?;
        let fits = key.eq_ignore_ascii_case(name.as_bytes());
        fits.then(|| std::str::from_utf8(value).ok().map(str::trim))?
    })
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    async fn answering(answer: &'static [u8]) -> Connection {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            while stream.read(&mut request).await.unwrap() > 0 {
                for piece in answer.chunks(7) {
                    stream.write_all(piece).await.unwrap();
                }
            }
        });
        Target::parse(&url).unwrap().connect().await.unwrap()
    }

    #[tokio::test]
    async fn answers_with_a_length_are_read() {
        let mut connection =
            answering(b"HTTP/1.1 200 OK\r\nX-Position: 7\r\ncontent-LENGTH: 4\r\n\r\ntrue").await;
        for _ in 0..2 {
            let answer = connection.send(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
            assert_eq!(answer.status, 200);
            assert_eq!(answer.header("x-position"), Some("7"));
            assert_eq!(answer.json().unwrap(), Value::Bool(true));
        }
    }

    #[tokio::test]
    async fn answers_in_chunks_are_read() {
        let mut connection = answering(
            b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n[1,\r\n2;x=y\r\n2]\r\n0\r\n\r\n",
        )
        .await;
        for _ in 0..2 {
            let answer = connection.send(b"x").await.unwrap();
            assert_eq!((answer.status, answer.body), (201, &b"[1,2]"[..]));
        }
    }

    #[tokio::test]
    async fn answers_without_a_body_are_read() {
        let mut connection = answering(b"HTTP/1.1 204 No Content\r\n\r\n").await;
        let answer = connection.send(b"x").await.unwrap();
        assert_eq!((answer.status, answer.body), (204, &b""[..]));
    }

    #[test]
    fn addresses_are_checked() {
        let parse = |url| Target::parse(url).map(|target| target.authority).ok();
        assert_eq!(
            parse("http://localhost:8080/").as_deref(),
            Some("localhost:8080")
        );
        assert_eq!(parse("http://host").as_deref(), Some("host:80"));
        for url in ["localhost:8080", "https://host", "http://", "http://host/x"] {
            assert_eq!(parse(url), None, "{url}");
        }
    }
}
