/** A client's files in $XDG_CONFIG_HOME/lxstow: its gateways, their certificates and its own, in the same form as those of `lxc`. A gateway is called `remote` in these files. */
import { randomBytes } from 'node:crypto';
import { mkdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { homedir, hostname, userInfo } from 'node:os';
import { join } from 'node:path';
import { parse, stringify } from 'yaml';
import { faultOfPair } from '../../trust/pair.ts';
import { CliError, exits } from '../exit.ts';
import { nearest } from './nearest.ts';

/** A gateway, under the name that its user gave it. */
export interface Remote {
  name: string;
  /** https://host:port */
  url: string;
  /** The project, unless --project names another. */
  project?: string;
  /** PEM. The certificate that the gateway must show. If there is none, a CA of the system must have signed the gateway's certificate. */
  certificate?: string;
}

export interface Identity {
  /** PEM. */
  cert: string;
  /** PEM. */
  key: string;
  /** Path of the certificate. */
  file: string;
}

interface Known {
  'default-remote'?: string;
  remotes: Record<string, { addr: string; project?: string }>;
}

const remoteName = /^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/;

function folder(): string {
  return join(process.env.XDG_CONFIG_HOME || join(home(), '.config'), 'lxstow');
}

/** The user's home directory. Throws bad-config if there is none: in a container, a user may have no entry in /etc/passwd. */
function home(): string {
  try {
    const found = homedir();
    if (found) return found;
  } catch {
    // The error is reported below.
  }
  throw new CliError(
    exits.config,
    'this user has no home directory, where lxstow keeps its gateways and its certificate',
    {
      hint: 'set HOME or XDG_CONFIG_HOME',
    },
  );
}

function userName(): string {
  try {
    return userInfo().username;
  } catch {
    return process.env.USER || `uid-${process.getuid?.()}`;
  }
}

const knownFile = () => join(folder(), 'remotes.yml');
const pinFile = (name: string) => join(folder(), 'servercerts', `${name}.crt`);

/** All known gateways, and the name of the default one. */
export async function listRemotes(): Promise<{ remotes: Remote[]; standard: string | undefined }> {
  const known = await read();
  const remotes = await Promise.all(Object.keys(known.remotes).map((name) => load(known, name)));
  return { remotes, standard: known['default-remote'] };
}

/** The gateway of this name, or the default one. Throws, with a hint, if there is none. */
export async function findRemote(name: string | undefined): Promise<Remote> {
  const known = await read();
  const wanted = name ?? known['default-remote'];
  const names = Object.keys(known.remotes);
  if (wanted !== undefined && names.includes(wanted)) return load(known, wanted);
  if (names.length === 0)
    throw new CliError(exits.config, 'no gateway is known yet', {
      hint: "lxstow remote add NAME URL|TOKEN; `lxstow trust token`, on the gateway's machine, makes a token",
    });
  if (wanted === undefined)
    throw new CliError(exits.config, 'there is no default gateway', { hint: 'lxstow remote switch NAME' });
  const near = nearest(wanted, names);
  throw new CliError(exits.notFound, `gateway ${wanted} is not known; known gateways: ${names.join(', ')}`, {
    hint: near && `did you mean ${near}: ?`,
  });
}

/** Throws if the name is taken or not allowed. */
export async function checkNewName(name: string): Promise<void> {
  if (!remoteName.test(name))
    throw new CliError(exits.usage, `${JSON.stringify(name)} cannot be a gateway's name: use letters, digits, . _ -`);
  if (name in (await read()).remotes)
    throw new CliError(exits.conflict, `gateway ${name} exists already`, { hint: `lxstow remote remove ${name}` });
}

/** Adds a gateway; the first one becomes the default. */
export async function addRemote({ name, url, project, certificate }: Remote): Promise<void> {
  const known = await read();
  if (certificate !== undefined) await write(pinFile(name), certificate);
  else await rm(pinFile(name), { force: true });
  known.remotes[name] = { addr: url, ...(project !== undefined && { project }) };
  known['default-remote'] ??= name;
  await save(known);
}

export async function removeRemote(name: string): Promise<void> {
  await findRemote(name);
  const known = await read();
  delete known.remotes[name];
  if (known['default-remote'] === name) delete known['default-remote'];
  await save(known);
  await rm(pinFile(name), { force: true });
}

export async function switchRemote(name: string): Promise<void> {
  await findRemote(name);
  await save({ ...(await read()), 'default-remote': name });
}

/** The client's own certificate; makes it the first time. */
export async function identity(): Promise<Identity> {
  const dir = join(folder(), 'client');
  const found = await readIdentity(dir);
  if (found) await warnOfMode(join(dir, 'client.key'));
  return found ?? (await makeIdentity(dir));
}

/** Warns if other users may read or write the key, by the same rule as ssh. The key is used all the same, as `lxc` uses its own. */
async function warnOfMode(file: string): Promise<void> {
  const { uid, mode } = await stat(file);
  if (uid !== process.getuid?.() || (mode & 0o077) === 0) return;
  const shown = (mode & 0o777).toString(8).padStart(4, '0');
  process.stderr.write(
    `lxstow: ${file}: its mode is ${shown}; anyone who can read it has this client's rights: chmod 600\n`,
  );
}

async function readIdentity(dir: string): Promise<Identity | undefined> {
  const file = join(dir, 'client.crt');
  const cert = await readIfThere(file);
  const key = await readIfThere(join(dir, 'client.key'));
  if (cert === undefined && key === undefined) return undefined;
  if (cert === undefined || key === undefined)
    throw new CliError(exits.config, `${dir} must hold client.crt and client.key, but one of them is missing`);
  const [files, settings] = [[file, join(dir, 'client.key')] as const, ['client.crt', 'client.key'] as const];
  const fault = faultOfPair(cert, key, { files, settings });
  if (fault)
    throw new CliError(exits.config, fault.said, {
      hint: `fix them, or remove ${dir}: lxstow then creates a new certificate, which each gateway must trust again`,
    });
  return { cert, key, file };
}

async function makeIdentity(dir: string): Promise<Identity> {
  const { selfSigned } = await import('../../trust/selfSigned.ts');
  const commonName = `${userName()}@${hostname()}`.slice(0, 64);
  const { cert, key } = await selfSigned({ commonName, usage: 'client' });
  // Put both files in place in one step: if two commands do this at the same time, one of them wins with both files.
  const made = `${dir}.${randomBytes(6).toString('hex')}`;
  try {
    await mkdir(made, { recursive: true, mode: 0o700 });
    await writeFile(join(made, 'client.key'), key, { mode: 0o600 });
    await writeFile(join(made, 'client.crt'), cert);
    await rename(made, dir);
  } catch (error) {
    await rm(made, { recursive: true, force: true });
    const other = await readIdentity(dir);
    if (!other) throw fileError(error, dir);
    return other;
  }
  return { cert, key, file: join(dir, 'client.crt') };
}

async function load(known: Known, name: string): Promise<Remote> {
  const { addr: url = '', project } = known.remotes[name] ?? {};
  const certificate = await readIfThere(pinFile(name));
  return { name, url, ...(project !== undefined && { project }), ...(certificate !== undefined && { certificate }) };
}

async function read(): Promise<Known> {
  const file = knownFile();
  const text = await readIfThere(file);
  if (text === undefined) return { remotes: {} };
  let known: unknown;
  try {
    known = parse(text);
  } catch (cause) {
    throw new CliError(exits.config, `${file} is not YAML: ${(cause as Error).message}`, { cause });
  }
  if (!isKnown(known))
    throw new CliError(exits.config, `${file} is not in the form that lxstow writes`, { hint: 'fix or remove it' });
  return known;
}

function isKnown(value: unknown): value is Known {
  const { remotes } = (value ?? {}) as Partial<Known>;
  return (
    typeof remotes === 'object' &&
    remotes !== null &&
    Object.entries(remotes).every(
      ([name, remote]) => remoteName.test(name) && URL.canParse(remote?.addr) && remote.addr.startsWith('https://'),
    )
  );
}

const save = (known: Known) => write(knownFile(), stringify(known));

/** Replaces the file in one step, so that a reader never sees half of it. */
async function write(file: string, text: string): Promise<void> {
  const part = `${file}.${randomBytes(6).toString('hex')}`;
  try {
    await mkdir(join(file, '..'), { recursive: true, mode: 0o700 });
    await writeFile(part, text, { mode: 0o600 });
    await rename(part, file);
  } catch (error) {
    throw fileError(error, file);
  }
}

async function readIfThere(file: string): Promise<string | undefined> {
  try {
    return await readFile(file, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw fileError(error, file);
  }
}

function fileError(cause: unknown, file: string): CliError {
  return new CliError(exits.io, `${file}: ${(cause as Error).message}`, { cause });
}
