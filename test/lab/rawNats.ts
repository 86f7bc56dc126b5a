/** NATS as no client library would speak it: a request with any bytes for headers, over TCP. */
import { connect } from 'node:net';

const inbox = '_INBOX_raw.1';

/** Publishes a message with these lines of headers, and returns the text of the answer; undefined if nothing takes the subject. */
export async function requestRaw(
  url: string,
  subject: string,
  lines: string[],
  data: string | Buffer,
): Promise<string | undefined> {
  const { hostname, port } = new URL(url.replace(/^nats:/, 'http:'));
  const socket = connect(Number(port), hostname);
  try {
    const head = Buffer.from(['NATS/1.0', ...lines, '', ''].join('\r\n'));
    const body = Buffer.from(data);
    const options = { verbose: false, headers: true, no_responders: true };
    socket.write(`CONNECT ${JSON.stringify(options)}\r\nSUB ${inbox} 1\r\n`);
    socket.write(`HPUB ${subject} ${inbox} ${head.length} ${head.length + body.length}\r\n`);
    socket.write(Buffer.concat([head, body, Buffer.from('\r\n')]));
    let said = Buffer.alloc(0);
    for await (const chunk of socket.iterator({ destroyOnReturn: false })) {
      said = Buffer.concat([said, chunk]);
      const text = said.toString('latin1');
      if (/^-ERR/m.test(text)) throw new Error(text.slice(text.indexOf('-ERR')));
      const found = /\r\n(H?)MSG \S+ 1 (?:(\d+) )?(\d+)\r\n/.exec(text);
      if (!found) continue;
      const [all, withHeaders, headSize = 0, size] = found;
      const begin = found.index + all.length;
      if (said.length < begin + Number(size)) continue;
      if (withHeaders && text.startsWith('NATS/1.0 503', begin)) return undefined;
      return said.toString('utf8', begin + Number(headSize), begin + Number(size));
    }
    throw new Error(`NATS has closed the connection: ${said}`);
  } finally {
    socket.destroy();
  }
}
