/** `lxstow remote`: manages the gateways that this client knows, and establishes trust between gateway and client. */

import type { X509Certificate } from 'node:crypto';
import { createInterface } from 'node:readline/promises';
import { text } from 'node:stream/consumers';
import { connect } from 'node:tls';
import { portOf, withoutBrackets } from '../../contract/hosts.ts';
import { fingerprintOf } from '../../trust/certificates.ts';
import { connectionError, Gateway, Unreachable } from '../client/gatewayClient.ts';
import {
  addRemote,
  checkNewName,
  identity,
  listRemotes,
  type Remote,
  removeRemote,
  switchRemote,
} from '../client/remotes.ts';
import { CliError, type Exit, exits } from '../exit.ts';
import { type Format, print } from '../terminal/output.ts';
import { Questions } from '../terminal/questions.ts';

interface AddOptions {
  acceptCertificate?: boolean;
  token?: string;
  project?: string;
}

const connectTimeoutMs = 10_000;

export async function addCommand(name: string, place: string | undefined, options: AddOptions): Promise<Exit> {
  await checkNewName(name);
  const { address, tokenText } = await placeAndToken(place, options.token);
  const given = readToken(address);
  const token = given ?? (tokenText === undefined ? undefined : readToken(tokenText));
  if (tokenText !== undefined && !token)
    throw new CliError(
      exits.usage,
      `${options.token === undefined ? 'LXSTOW_TOKEN' : '--token'}: this is not a token of lxstow or LXD`,
    );
  const urls = given ? given.addresses.map(urlOf) : [urlOf(address)];
  const { url, certificate, vouchedFor } = await firstThatAnswers(name, urls);
  const fingerprint = fingerprintOf(certificate);
  if (token && token.fingerprint !== fingerprint)
    throw new CliError(
      exits.refused,
      `${url} is not the gateway that the token is for: its certificate is ${fingerprint}`,
    );
  if (!token && !vouchedFor && !options.acceptCertificate) await ask(url, fingerprint);
  const remote: Remote = {
    name,
    url,
    ...(options.project !== undefined && { project: options.project }),
    ...(!vouchedFor && { certificate: certificate.toString() }),
  };
  const own = await identity();
  using gateway = new Gateway(remote, own);
  const trusted = async () => (await gateway.ask('GET', []))?.auth === 'trusted';
  if (!(await trusted())) {
    if (token) await gateway.ask('POST', ['certificates'], { body: { type: 'client', trust_token: token.text } });
    if (!token || !(await trusted()))
      throw new CliError(exits.refused, `${name} (${url}) does not trust this client yet, and was not added`, {
        hint: `on the gateway's machine, run \`lxstow trust token\` and give the token here, or run \`lxstow trust add\` with ${own.file}`,
      });
  }
  const project = remote.project ?? (await ownProject(gateway, own.cert));
  await addRemote({ ...remote, ...(project !== undefined && { project }) });
  process.stdout.write(`${name} is ${url}${project === undefined ? '' : `, project ${project}`}\n`);
  return exits.ok;
}

/** Where the gateway is, or a token that says so, and the token beside it. Reads tokens where other users of the machine do not see them, too. */
async function placeAndToken(place: string | undefined, option: string | undefined) {
  const { LXSTOW_TOKEN: inEnvironment } = process.env;
  const address = place === '-' ? await lineOfStdin() : (place ?? inEnvironment?.trim() ?? (await askForToken()));
  const tokenText =
    option === '-' ? await lineOfStdin() : (option ?? (place === undefined ? undefined : inEnvironment?.trim()));
  return { address, tokenText };
}

async function lineOfStdin(): Promise<string> {
  const lines = (await text(process.stdin)).trim().split('\n');
  const last = lines.at(-1)?.trim();
  if (last) return last;
  throw new CliError(exits.usage, 'standard input has no token', {
    hint: 'lxstow trust token NAME | lxstow remote add NAME -',
  });
}

async function askForToken(): Promise<string> {
  const flag = 'the token or a URL, as an argument, in LXSTOW_TOKEN, or on standard input with -';
  if (!process.stdin.isTTY) throw new CliError(exits.usage, `give ${flag}`);
  using questions = new Questions();
  return questions.ask({ text: 'Token', hidden: true, flag, read: (answer) => answer.trim() });
}

/** The first project that this client is restricted to; undefined if it is not restricted, or the gateway does not say. */
async function ownProject(gateway: Gateway, cert: string): Promise<string | undefined> {
  try {
    const fingerprint = fingerprintOf(cert);
    const { restricted, projects } = await gateway.ask('GET', ['certificates', fingerprint]);
    return restricted && !projects.includes('default') ? projects[0] : undefined;
  } catch (error) {
    // A client that is trusted because of a CA is not listed.
    if (error instanceof CliError && error.exit !== exits.unavailable) return undefined;
    throw error;
  }
}

export async function listCommand({ format }: { format: Format }): Promise<Exit> {
  const { remotes, standard } = await listRemotes();
  const rows = remotes.map(({ name, url, project, certificate }) => [
    name === standard ? `${name} (current)` : name,
    url,
    project ?? 'default',
    certificate === undefined ? 'by a CA' : 'pinned',
  ]);
  const raw = remotes.map(({ name, url, project = 'default', certificate }) => ({
    name,
    url,
    project,
    current: name === standard,
    certificate: certificate ?? null,
  }));
  print(format, {
    heading: ['NAME', 'URL', 'PROJECT', 'CERTIFICATE'],
    rows,
    raw,
    empty: 'no gateway is known yet: lxstow remote add NAME URL|TOKEN',
  });
  return exits.ok;
}

export async function removeCommand(name: string): Promise<Exit> {
  await removeRemote(name);
  return exits.ok;
}

export async function switchCommand(name: string): Promise<Exit> {
  await switchRemote(name);
  return exits.ok;
}

/** Reads a token in LXD's form; undefined for anything else. */
function readToken(text: string): { text: string; fingerprint: string; addresses: string[] } | undefined {
  try {
    const { fingerprint, addresses, secret } = JSON.parse(Buffer.from(text, 'base64').toString());
    if (typeof secret !== 'string' || typeof fingerprint !== 'string' || !Array.isArray(addresses)) return undefined;
    return { text, fingerprint: fingerprint.toLowerCase(), addresses: addresses.map(String) };
  } catch {
    return undefined;
  }
}

/** `host`, `host:port` or `https://host:port`. */
function urlOf(address: string): string {
  const text = address.includes('://') ? address : `https://${address}`;
  const wrong = new CliError(exits.usage, `${address} is neither an address (https://host:port) nor a token`);
  if (!URL.canParse(text)) throw wrong;
  const url = new URL(text);
  if (url.protocol !== 'https:' || url.pathname !== '/' || url.search || url.username) throw wrong;
  return `https://${url.hostname}:${portOf(text)}`;
}

interface Found {
  url: string;
  certificate: X509Certificate;
  /** Whether a CA of the system has signed it. */
  vouchedFor: boolean;
}

async function firstThatAnswers(name: string, urls: string[]): Promise<Found> {
  let last: CliError | undefined;
  for (const url of urls) {
    try {
      return await look(name, url);
    } catch (error) {
      if (!(error instanceof CliError)) throw error;
      last = error;
    }
  }
  throw (
    last ??
    new CliError(exits.usage, 'the token names no address', { hint: 'lxstow remote add NAME URL --token TOKEN' })
  );
}

/** Connects only to get the gateway's certificate; sends no request. */
function look(name: string, url: string): Promise<Found> {
  const { hostname, port } = new URL(url);
  const host = withoutBrackets(hostname);
  return new Promise((resolve, reject) => {
    const socket = connect({
      host,
      port: Number(port),
      ...(!/^[\d.]+$|:/.test(host) && { servername: host }),
      rejectUnauthorized: false,
    });
    socket.setTimeout(connectTimeoutMs, () => socket.destroy(new Error('it does not answer')));
    socket.once('secureConnect', () => {
      const certificate = socket.getPeerX509Certificate();
      const vouchedFor = socket.authorized;
      socket.destroy();
      if (certificate) resolve({ url, certificate, vouchedFor });
      else reject(new CliError(exits.protocol, `${url} shows no certificate`));
    });
    socket.once('error', (error: NodeJS.ErrnoException) => {
      const failure = connectionError(error, { name, url });
      reject(
        failure instanceof Unreachable ? new Unreachable(failure.exit, failure.message, { cause: error }) : failure,
      );
    });
  });
}

async function ask(url: string, fingerprint: string): Promise<void> {
  const unknown = `${url} presents a certificate that no trusted CA has signed: ${fingerprint}`;
  if (!process.stdin.isTTY)
    throw new CliError(exits.refused, unknown, {
      hint: 'compare it with the fingerprint that the gateway logs at its start, and give --accept-certificate; or use a token',
    });
  const line = createInterface({ input: process.stdin, output: process.stderr });
  try {
    const answer = (await line.question(`Certificate fingerprint: ${fingerprint}\nok (y/n/[fingerprint])? `))
      .trim()
      .toLowerCase();
    if (!['y', 'yes', fingerprint].includes(answer)) throw new CliError(exits.refused, `${url} was not added`);
  } finally {
    line.close();
  }
}
