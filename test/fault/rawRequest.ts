/** HTTP as no client library would send it: bytes over TLS, and what comes back. */
import { connect } from 'node:tls';
import type { Lxstow } from '../lab/lxstow.ts';

export interface RawAnswer {
  status: number;
  headers: Map<string, string>;
  body: string;
}

/** An answer may take as long as NATS, S3 and LXD together may; after that the request was forgotten. */
const answerMs = 30_000;

/** Sends the bytes, says that no more come, and reads until the server has closed. It may close without a word. */
export async function sendRaw(stow: Lxstow, bytes: Buffer, method: string): Promise<RawAnswer[]> {
  const { port, hostname } = new URL(stow.url);
  const chunks: Buffer[] = [];
  await new Promise<void>((resolve, reject) => {
    const socket = connect({
      host: hostname,
      port: Number(port),
      key: stow.client.key,
      cert: stow.client.cert,
      rejectUnauthorized: false,
    });
    const timer = setTimeout(() => {
      socket.destroy();
      reject(new Error(`no end of an answer after ${answerMs} ms: ${Buffer.concat(chunks).toString().slice(0, 200)}`));
    }, answerMs);
    const done = () => {
      clearTimeout(timer);
      resolve();
    };
    socket.on('data', (chunk: Buffer) => chunks.push(chunk));
    // A server that has refused need not read the rest.
    socket.on('error', done);
    socket.on('close', done);
    socket.once('secureConnect', () => socket.end(bytes));
  });
  return parse(Buffer.concat(chunks), method);
}

function parse(bytes: Buffer, method: string): RawAnswer[] {
  const answers: RawAnswer[] = [];
  for (let at = 0; at < bytes.length; ) {
    const end = bytes.indexOf('\r\n\r\n', at);
    if (end < 0) throw new Error(`an answer without an end of its head: ${bytes.subarray(at, at + 200)}`);
    const [statusLine = '', ...lines] = bytes.toString('latin1', at, end).split('\r\n');
    const status = Number(/^HTTP\/1\.1 (\d{3}) /.exec(statusLine)?.[1]);
    if (!status) throw new Error(`not HTTP: ${statusLine}`);
    const headers = new Map(
      lines.map((line) => [line.slice(0, line.indexOf(':')).toLowerCase(), line.slice(line.indexOf(':') + 1).trim()]),
    );
    at = end + 4;
    if (status === 100) continue;
    const body = method === 'HEAD' ? Buffer.alloc(0) : bodyAt(bytes, at, headers);
    answers.push({ status, headers, body: body.toString() });
    at += headers.has('transfer-encoding') ? bytes.length : body.length;
  }
  return answers;
}

/** Node sends chunks only where it answers by itself, without a body. */
function bodyAt(bytes: Buffer, at: number, headers: Map<string, string>): Buffer {
  if (!headers.has('transfer-encoding')) return bytes.subarray(at, at + Number(headers.get('content-length') ?? 0));
  const rest = bytes.subarray(at).toString('latin1');
  return rest === '0\r\n\r\n' ? Buffer.alloc(0) : Buffer.from(rest);
}
