/** `lxstow trust`: manages trusted clients and tokens directly on NATS, without a gateway. */
import { readFileSync } from 'node:fs';
import { hostname, userInfo } from 'node:os';
import { basename, extname } from 'node:path';
import { LxstowError } from '../../contract/errors.ts';
import { type Config, check, type Requestor, type Role } from '../../contract/schemas.ts';
import { projectsText, unknownProjects } from '../../hosts/knownProjects.ts';
import { connectNats, type Nats } from '../../nats/connection.ts';
import type { Log } from '../../telemetry/logger.ts';
import { changedGrant, commonName, newGrant, parseCertificate, trustedCertificate } from '../../trust/certificates.ts';
import { encodeToken, type GatewayPlace, newToken } from '../../trust/tokens.ts';
import { TrustStore } from '../../trust/trustStore.ts';
import { type Format, print as printResult, time } from '../terminal/output.ts';

interface Common {
  config: Config;
  log: Log;
}

interface GrantOptions {
  role?: Role;
  /** Empty: the client is not restricted. */
  project: string[];
  /** Accept projects that no worker knows. */
  unchecked?: boolean;
}

const print = (text: string) => process.stdout.write(text);

/** Prints the token, alone on standard output. */
export async function tokenCommand(
  { config, log }: Common,
  name: string,
  options: GrantOptions & { expires?: number; gateway?: string },
): Promise<void> {
  check('names.json#/$defs/clientName', name, 'name');
  const lifetimeMs = options.expires ?? config.gateway.tokenExpiryHours * 3_600_000;
  await using trust = await open(config, log);
  await assertProjects(trust.nats, config, options);
  const place = gatewayOf(await trust.store.gateways(), options.gateway);
  const { token, secret } = newToken(name, grantOf(options), place, new Date(Date.now() + lifetimeMs));
  await trust.store.addToken(token, secret);
  process.stderr.write(`Client ${name} certificate add token, until ${token.expires_at}:\n`);
  print(`${encodeToken(token, secret)}\n`);
}

export async function addCommand(
  { config, log }: Common,
  file: string,
  options: GrantOptions & { name?: string },
): Promise<void> {
  const certificate = parseCertificate(readCertificate(file));
  const name = options.name ?? commonName(certificate) ?? basename(file, extname(file));
  check('names.json#/$defs/clientName', name, 'name');
  await using trust = await open(config, log);
  await assertProjects(trust.nats, config, options);
  const entry = trustedCertificate(certificate, name, grantOf(options));
  await trust.store.add(entry);
  print(`${entry.name} is trusted: ${entry.fingerprint}\n`);
}

export async function listCommand({ config, log }: Common, { format }: { format: Format }): Promise<void> {
  await using trust = await open(config, log);
  const found = (await trust.store.certificates()).map(({ certificate }) => certificate);
  found.sort((a, b) => a.name.localeCompare(b.name));
  const rows = found.map(({ name, role, restricted, projects, fingerprint, added_at }) => [
    name,
    role,
    restricted ? projects.join(',') || '-' : 'all',
    fingerprint.slice(0, 12),
    time(added_at),
  ]);
  printResult(format, {
    heading: ['NAME', 'ROLE', 'PROJECTS', 'FINGERPRINT', 'ADDED (UTC)'],
    rows,
    raw: found,
    empty: 'no client is trusted, except by gateway.trustDir and gateway.trustCa',
  });
}

/** Changes only what is given. The client's open connections end, and it connects again with its new rights. */
export async function editCommand(
  { config, log }: Common,
  fingerprint: string,
  options: GrantOptions & { name?: string; allProjects?: boolean },
): Promise<void> {
  const { name, role, project, allProjects = false } = options;
  if (project.length > 0 && allProjects)
    throw new LxstowError('bad-request', 'give either --project or --all-projects, not both');
  if (name === undefined && role === undefined && project.length === 0 && !allProjects)
    throw new LxstowError('bad-request', 'nothing to change: give --name, --role, --project or --all-projects');
  if (name !== undefined) check('names.json#/$defs/clientName', name, 'name');
  for (const each of project) check('names.json#/$defs/projectName', each, '--project');
  const places = allProjects
    ? { restricted: false, projects: [] }
    : project.length > 0
      ? { restricted: true, projects: project }
      : {};
  await using trust = await open(config, log);
  await assertProjects(trust.nats, config, options);
  for (;;) {
    const { certificate, revision } = await trust.store.find(fingerprint.toLowerCase());
    const after = { ...certificate, ...(name && { name }), ...changedGrant(certificate, { role, ...places }) };
    if (!(await trust.store.update(after, revision))) continue;
    const where = after.restricted ? `projects ${after.projects.join(', ') || '-'}` : 'all projects';
    return void print(`${after.name} is ${after.role} of ${where}: ${after.fingerprint}\n`);
  }
}

export async function removeCommand({ config, log }: Common, fingerprint: string): Promise<void> {
  await using trust = await open(config, log);
  const { certificate } = await trust.store.find(fingerprint.toLowerCase());
  await trust.store.revoke(certificate, byHand());
  print(`${certificate.name} is no longer trusted: ${certificate.fingerprint}\n`);
}

export async function listTokensCommand({ config, log }: Common, { format }: { format: Format }): Promise<void> {
  await using trust = await open(config, log);
  const found = (await trust.store.tokens()).sort((a, b) => a.name.localeCompare(b.name));
  const rows = found.map(({ name, role, restricted, projects, expires_at }) => [
    name,
    role,
    restricted ? projects.join(',') || '-' : 'all',
    time(expires_at),
  ]);
  const heading = ['NAME', 'ROLE', 'PROJECTS', 'EXPIRES (UTC)'];
  printResult(format, { heading, rows, raw: found, empty: 'there are no tokens' });
}

/** Removes all tokens of this name. */
export async function revokeTokenCommand({ config, log }: Common, name: string): Promise<void> {
  await using trust = await open(config, log);
  const found = (await trust.store.tokens()).filter((token) => token.name === name);
  if (found.length === 0) throw new LxstowError('not-found', `there is no token for ${name}`);
  for (const { id } of found) await trust.store.revokeToken(id, byHand());
  print(`the token for ${name} is revoked\n`);
}

/** Throws not-found for a project that exists on no host, and no-worker if no worker answers. */
async function assertProjects(nats: Nats, config: Config, { project, unchecked = false }: GrantOptions): Promise<void> {
  if (unchecked) return;
  const remotes = Object.keys(config.remotes);
  const found = await unknownProjects(nats, remotes, project, config.gateway.askTimeoutMs);
  if (found.missing.length === 0) return;
  const anyway = 'start one, or accept the name unchecked: --unchecked';
  if (found.silent.length === remotes.length)
    throw new LxstowError('no-worker', `no worker is up to say which projects exist; ${anyway}`);
  const unheard = found.silent.length > 0 ? `, and no worker of ${found.silent.join(', ')} is up: ${anyway}` : '';
  throw new LxstowError('not-found', `${projectsText(found, remotes)}${unheard}`);
}

async function open(config: Config, log: Log): Promise<{ store: TrustStore; nats: Nats } & AsyncDisposable> {
  const nats = await connectNats(config.nats, 'lxstow trust', log);
  return { store: new TrustStore(nats, log), nats, [Symbol.asyncDispose]: () => nats[Symbol.asyncDispose]() };
}

/** The user who runs this command, as far as this machine knows. */
function byHand(): Requestor {
  let username = String(process.getuid?.() ?? '');
  try {
    username = userInfo().username;
  } catch {
    // In a container, a user may have only a number.
  }
  return { username, protocol: 'nats', address: hostname() };
}

function grantOf({ role, project }: GrantOptions) {
  for (const each of project) check('names.json#/$defs/projectName', each, '--project');
  return newGrant({ role, restricted: project.length > 0, projects: project });
}

/** The gateway at this address, or the one that started last. */
function gatewayOf(places: GatewayPlace[], address: string | undefined): GatewayPlace {
  const place = places.find(({ addresses }) => address === undefined || addresses.includes(address));
  if (place) return place;
  const known = places.flatMap(({ addresses }) => addresses).join(', ');
  throw new LxstowError(
    'not-found',
    known
      ? `no gateway is known at ${address}; known addresses: ${known}`
      : 'no gateway is known yet, and a token needs its address: start a gateway first',
  );
}

function readCertificate(file: string): string {
  try {
    return readFileSync(file, 'latin1');
  } catch (cause) {
    throw new LxstowError('bad-request', `cannot read ${file}: ${(cause as Error).message}`, { cause });
  }
}
