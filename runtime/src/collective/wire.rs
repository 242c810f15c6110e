//! The connections of a [`Watch`](super::Watch): how they are made, and what goes over them.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::thread;
use std::time::{Duration, Instant};

use super::verdict::{Fate, Peer, Verdict};
use super::{Rendezvous, World};
use crate::{Error, Result};

/// How a rank introduces itself: this, then port of the rendezvous, ranks of the run and its own rank.
const GREETING: [u8; 8] = *b"packscan";
const HELLO_BYTES: usize = 18;
/// Rank 0's answer to one that it takes.
const WELCOME: u8 = 1;
/// For an answer from whoever listens on a port, and for a write to a rank whose host does not take it.
const ANSWER: Duration = Duration::from_secs(2);
/// Between two rounds of tries.
const PAUSE: Duration = Duration::from_millis(50);

pub(super) fn failed(world: &World, why: String) -> Error {
    Error::Meeting { rank: world.rank, size: world.size, place: world.rendezvous.to_string(), why }
}

fn hello(world: &World, rank: u32) -> [u8; HELLO_BYTES] {
    let mut hello = [0; HELLO_BYTES];
    hello[..8].copy_from_slice(&GREETING);
    hello[8..10].copy_from_slice(&world.rendezvous.port.to_le_bytes());
    hello[10..14].copy_from_slice(&(world.size as u32).to_le_bytes());
    hello[14..].copy_from_slice(&rank.to_le_bytes());
    hello
}

/// Rank 0 waits for the others and gives them the message. The connections are in the order of the ranks.
pub(super) fn gather(
    world: &World,
    patience: Duration,
    message: impl FnOnce() -> Result<Vec<u8>>,
) -> Result<(Vec<TcpStream>, Vec<u8>)> {
    let mut streams: Vec<Option<TcpStream>> = (1..world.size).map(|_| None).collect();
    if world.size > 1 {
        let broken = |error: io::Error| failed(world, format!("it cannot listen: {error}; name another MASTER_PORT"));
        let listener = listen(world).map_err(broken)?;
        listener.set_nonblocking(true).map_err(broken)?;
        let start = Instant::now();
        while streams.iter().any(Option::is_none) && start.elapsed() < patience {
            match listener.accept() {
                Ok((stream, _)) => {
                    if let Ok(rank) = admit(world, &stream)
                        && streams[rank - 1].is_none()
                        && (&stream).write_all(&[WELCOME]).is_ok()
                    {
                        streams[rank - 1] = Some(stream);
                    }
                }
                Err(_) => thread::sleep(PAUSE),
            }
        }
    }
    if let Some(absent) = streams.iter().position(Option::is_none) {
        let verdict = Verdict { rank: absent + 1, fate: Fate::Absent, step: 0, waited: patience };
        // Those that came learn who did not. One that is gone by now needs no word.
        streams.iter().flatten().for_each(|stream| drop(Frame::verdict(&verdict).write(stream)));
        return Err(Error::Rank { verdict });
    }
    let streams: Vec<TcpStream> = streams.into_iter().flatten().collect();
    let message = message()?;
    for (at, mut stream) in streams.iter().enumerate() {
        let start = Frame { entered: message.len() as u64, ..Frame::of(Kind::Start, 0, &Peer::new(Instant::now())) };
        let sent = start.write(stream).and_then(|()| stream.write_all(&message));
        sent.map_err(|_| Error::Rank {
            verdict: Verdict { rank: at + 1, fate: Fate::Ended, step: 0, waited: Duration::ZERO },
        })?;
    }
    Ok((streams, message))
}

/// The first free port. On a host's own name it listens on every interface: a host may know itself by its loopback address.
fn listen(world: &World) -> io::Result<TcpListener> {
    let Rendezvous { host, port } = &world.rendezvous;
    let named = host.parse::<IpAddr>().ok().filter(IpAddr::is_loopback);
    let addresses = match named {
        Some(address) => vec![address],
        None if host == "localhost" => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
        None => vec![Ipv6Addr::UNSPECIFIED.into(), Ipv4Addr::UNSPECIFIED.into()],
    };
    let mut last = io::Error::other("there is no address");
    for port in port + 1..=port + Rendezvous::PORTS {
        for &address in &addresses {
            match TcpListener::bind((address, port)) {
                Ok(listener) => return Ok(listener),
                Err(error) => last = error,
            }
        }
    }
    Err(last)
}

/// The rank of one that connects, if it belongs to this run.
fn admit(world: &World, mut stream: &TcpStream) -> io::Result<usize> {
    prepare(stream)?;
    stream.set_read_timeout(Some(ANSWER))?;
    let mut got = [0; HELLO_BYTES];
    stream.read_exact(&mut got)?;
    stream.set_read_timeout(None)?;
    let rank = u32::from_le_bytes(got[14..].try_into().expect("four bytes"));
    let known = (1..world.size as u32).contains(&rank) && got == hello(world, rank);
    if known { Ok(rank as usize) } else { Err(io::Error::other("of another run")) }
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    // An accepted connection may inherit this from the listener.
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(ANSWER))
}

/// Another rank reaches rank 0 and gets the message.
pub(super) fn reach(world: &World, patience: Duration) -> Result<(TcpStream, Vec<u8>)> {
    let start = Instant::now();
    let mut stream = loop {
        match try_ports(world) {
            Ok(stream) => break stream,
            Err(last) if start.elapsed() >= patience => {
                let why = format!(
                    "rank 0 did not answer for {:.1} s ({last}); see that rank 0 runs, that MASTER_ADDR is its host \
                     and that no firewall stands between",
                    patience.as_secs_f32()
                );
                return Err(failed(world, why));
            }
            Err(_) => thread::sleep(PAUSE),
        }
    };
    let ended = Verdict { rank: 0, fate: Fate::Ended, step: 0, waited: start.elapsed() };
    // Rank 0 speaks when all have come, or gives up by itself.
    let broken = |error: io::Error| failed(world, format!("the connection broke: {error}"));
    stream.set_read_timeout(Some(patience + ANSWER)).map_err(broken)?;
    let frame = Frame::read(&mut stream).ok_or(Error::Rank { verdict: ended })?;
    match frame.kind {
        Kind::Start => {
            let mut message = vec![0; usize::try_from(frame.entered).unwrap_or(0).min(1 << 16)];
            stream.read_exact(&mut message).map_err(|_| Error::Rank { verdict: ended })?;
            stream.set_read_timeout(None).map_err(broken)?;
            Ok((stream, message))
        }
        Kind::Verdict(fate) => {
            let waited = Duration::from_millis(frame.marks);
            Err(Error::Rank { verdict: Verdict { rank: frame.rank, fate, step: frame.step, waited } })
        }
        Kind::Beat | Kind::End => Err(Error::Rank { verdict: ended }),
    }
}

fn try_ports(world: &World) -> io::Result<TcpStream> {
    let Rendezvous { host, port } = &world.rendezvous;
    let mut last = io::Error::other("its host has no address");
    for port in port + 1..=port + Rendezvous::PORTS {
        for address in (host.as_str(), port).to_socket_addrs()? {
            match greet(world, address) {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
    }
    Err(last)
}

fn greet(world: &World, address: SocketAddr) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&address, ANSWER)?;
    prepare(&stream)?;
    stream.set_read_timeout(Some(ANSWER))?;
    stream.write_all(&hello(world, world.rank as u32))?;
    let mut answer = [0];
    stream.read_exact(&mut answer)?;
    if answer != [WELCOME] {
        return Err(io::Error::other("another program listens there"));
    }
    Ok(stream)
}

/// What a frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// All have come; `entered` bytes of message follow.
    Start,
    /// A rank lives.
    Beat,
    /// All have left.
    End,
    /// `rank` is lost; `marks` are the milliseconds that it was waited for.
    Verdict(Fate),
}

/// The one kind of message after the meeting, of fixed length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) kind: Kind,
    pub(super) rank: usize,
    pub(super) step: u64,
    pub(super) entered: u64,
    pub(super) marks: u64,
    pub(super) pending: bool,
    pub(super) leaving: bool,
}

impl Frame {
    /// Kind, fate, flags, rank, step, operations and marks.
    const BYTES: usize = 31;

    pub(super) fn of(kind: Kind, rank: usize, peer: &Peer) -> Frame {
        let Peer { step, entered, marks, pending, leaving, .. } = *peer;
        Frame { kind, rank, step, entered, marks, pending, leaving }
    }

    pub(super) fn verdict(verdict: &Verdict) -> Frame {
        let Verdict { rank, fate, step, waited } = *verdict;
        let (kind, marks) = (Kind::Verdict(fate), waited.as_millis() as u64);
        Frame { kind, rank, step, entered: 0, marks, pending: false, leaving: false }
    }

    pub(super) fn write(&self, mut stream: &TcpStream) -> io::Result<()> {
        stream.write_all(&self.to_bytes())
    }

    /// `None` once the connection is closed, broken or talks nonsense.
    pub(super) fn read(stream: &mut TcpStream) -> Option<Frame> {
        let mut bytes = [0; Frame::BYTES];
        stream.read_exact(&mut bytes).ok()?;
        Frame::from_bytes(&bytes)
    }

    fn to_bytes(self) -> [u8; Frame::BYTES] {
        let (kind, fate) = match self.kind {
            Kind::Start => (0, 0),
            Kind::Beat => (1, 0),
            Kind::End => (2, 0),
            Kind::Verdict(fate) => (3, fate as u8),
        };
        let mut bytes = [0; Frame::BYTES];
        bytes[..3].copy_from_slice(&[kind, fate, u8::from(self.pending) | u8::from(self.leaving) << 1]);
        bytes[3..7].copy_from_slice(&(self.rank as u32).to_le_bytes());
        bytes[7..15].copy_from_slice(&self.step.to_le_bytes());
        bytes[15..23].copy_from_slice(&self.entered.to_le_bytes());
        bytes[23..].copy_from_slice(&self.marks.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8; Frame::BYTES]) -> Option<Frame> {
        let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let kind = match bytes[0] {
            0 => Kind::Start,
            1 => Kind::Beat,
            2 => Kind::End,
            3 => Kind::Verdict(Fate::from_byte(bytes[1])?),
            _ => return None,
        };
        let rank = u32::from_le_bytes(bytes[3..7].try_into().expect("four bytes")) as usize;
        let (pending, leaving) = (bytes[2] & 1 != 0, bytes[2] & 2 != 0);
        Some(Frame { kind, rank, step: number(7), entered: number(15), marks: number(23), pending, leaving })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_the_way() {
        let peer = Peer { step: 1 << 40, entered: 7, marks: u64::MAX, leaving: true, ..Peer::new(Instant::now()) };
        let verdict = Verdict { rank: 3, fate: Fate::Hung, step: 9, waited: Duration::from_millis(1234) };
        for frame in [Frame::of(Kind::Start, 2, &peer), Frame::of(Kind::End, 0, &peer), Frame::verdict(&verdict)] {
            assert_eq!(Frame::from_bytes(&frame.to_bytes()), Some(frame));
        }
        assert_eq!(Frame::from_bytes(&[9; Frame::BYTES]), None);
    }
}
