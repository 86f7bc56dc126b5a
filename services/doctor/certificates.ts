/** Checks certificates: in files, and as servers present them. */

import { X509Certificate } from 'node:crypto';
import { addAbortListener } from 'node:events';
import { readFile } from 'node:fs/promises';
import { connect as connectTcp, isIP, type Socket } from 'node:net';
import tls from 'node:tls';
import { withoutBrackets } from '../contract/hosts.ts';
import { pemCertificates } from '../trust/certificates.ts';
import { faultOfKey, type PairPlace } from '../trust/pair.ts';
import { answerMs, type Report } from './finding.ts';

/** Certificates are usually renewed a month before they expire. With fewer days left than this, a renewal was missed. */
const soonDays = 21;
const dayMs = 86_400_000;

/** Reads the certificates in a PEM file. If none can be read, reports a problem and returns undefined. */
export async function readCertificates(
  path: string,
  key: string,
  report: Report,
): Promise<X509Certificate[] | undefined> {
  try {
    const text = await readFile(path, 'utf8');
    const found = pemCertificates(text);
    if (found.length === 0) throw new Error('there is no certificate (PEM) in it');
    return found.map((pem) => new X509Certificate(pem));
  } catch (error) {
    report(
      'problem',
      `${key}: ${path} cannot be used: ${(error as Error).message}`,
      `Set ${key} to a PEM file that this user may read.`,
    );
    return undefined;
  }
}

interface ExaminedPair extends PairPlace {
  what: string;
  /** How to renew it. */
  renew: string;
}

/** Checks a certificate and its key, in files. Returns the certificate if both are valid, its dates aside. */
export async function examinePair(pair: ExaminedPair, report: Report): Promise<X509Certificate | undefined> {
  const { what, files, settings, renew } = pair;
  const [path, key] = files;
  const [pathSetting, keySetting] = settings;
  const [certificate] = (await readCertificates(path, pathSetting, report)) ?? [];
  if (!certificate) return undefined;
  const text = await readFile(key, 'utf8').catch((error: Error) => error);
  const fault =
    text instanceof Error
      ? {
          said: `the key in ${key} cannot be used: ${text.message}`,
          advice: `Set ${keySetting} to a PEM file, without a passphrase, that this user may read.`,
        }
      : faultOfKey(certificate, text, pair);
  if (fault) {
    report('problem', `${what}: ${fault.said}`, fault.advice);
    return undefined;
  }
  judgeDates(what, certificate, renew, report);
  return certificate;
}

/** Reports until when it is valid. */
export function judgeDates(what: string, certificate: X509Certificate, renew: string, report: Report): void {
  const [from, to] = [Date.parse(certificate.validFrom), Date.parse(certificate.validTo)];
  const date = (time: number) => new Date(time).toISOString().slice(0, 10);
  const left = Math.floor((to - Date.now()) / dayMs);
  if (Date.now() > to) report('problem', `${what} expired on ${date(to)}`, renew);
  else if (Date.now() < from)
    report(
      'problem',
      `${what} is not valid before ${date(from)}`,
      'Check the clocks of this host and of the machine that made the certificate: `timedatectl`.',
    );
  else if (left < soonDays) report('warning', `${what} expires on ${date(to)}, in ${left} days`, renew);
  else report('ok', `${what} is valid until ${date(to)}`);
}

/** Reports until when a CA's certificate, or the first in its file, is valid; returns whether it can be read. */
export async function examineCa(
  what: string,
  { file, key, renew = 'Put the new one there.' }: { file: string; key: string; renew?: string },
  report: Report,
): Promise<boolean> {
  const [first] = (await readCertificates(file, key, report)) ?? [];
  if (first) judgeDates(`${what} (${file})`, first, renew, report);
  return first !== undefined;
}

/** Reports until when a server's certificate is valid, and, with `trust` for advice, that it is not trusted. Throws the connection's error. */
export async function examineServer(
  what: string,
  server: Server,
  { renew, trust }: { renew: string; trust?: string },
  report: Report,
): Promise<void> {
  const { certificate, distrust } = await shownBy(server);
  judgeDates(what, certificate, renew, report);
  if (trust !== undefined && distrust !== undefined && distrust !== 'CERT_HAS_EXPIRED')
    report('problem', `${what} is not trusted: ${distrust}`, trust);
}

interface Server {
  /** Host as in a URL: an IPv6 address is in brackets. */
  host: string;
  port: number;
  ca: string | undefined;
  /** Whether the server first sends plain text, as NATS does. */
  greets?: boolean;
  signal: AbortSignal;
}

/** Returns the certificate that a server presents, and the reason if it is not trusted. Throws the connection's error. */
async function shownBy({
  host: bracketed,
  port,
  ca,
  greets = false,
  signal,
}: Server): Promise<{ certificate: X509Certificate; distrust: string | undefined }> {
  const host = withoutBrackets(bracketed);
  const { promise, resolve, reject } = Promise.withResolvers<tls.TLSSocket>();
  const plain: Socket = connectTcp({ host, port });
  let secure: tls.TLSSocket | undefined;
  const start = () => {
    secure = tls.connect({
      socket: plain,
      ...(isIP(host) ? { host } : { servername: host, host }),
      ...(ca === undefined ? {} : { ca }),
      rejectUnauthorized: false,
    });
    secure.once('secureConnect', () => resolve(secure as tls.TLSSocket));
    secure.once('error', reject);
  };
  using _listener = addAbortListener(signal, () => reject(signal.reason));
  plain.setTimeout(answerMs, () => reject(new Error(`no answer in ${answerMs / 1000} s`)));
  plain.once('error', reject);
  plain.once('close', () => reject(new Error('the connection was closed')));
  plain.once('connect', () => (greets ? plain.once('data', start) : start()));
  try {
    const socket = await promise;
    const certificate = socket.getPeerX509Certificate();
    if (!certificate) throw new Error('it shows no certificate');
    const distrust = socket.authorized
      ? undefined
      : String((socket.authorizationError as unknown as { code?: string })?.code ?? socket.authorizationError);
    return { certificate, distrust };
  } finally {
    secure?.destroy();
    plain.destroy();
  }
}
