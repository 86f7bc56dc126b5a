/** The configuration that `lxstow init` writes: commented, and for its owner alone. What people added to it stays. */
import { existsSync, readFileSync } from 'node:fs';
import { chmod, copyFile, mkdir } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { type Document, isMap, isScalar, parseDocument } from 'yaml';
import { LxstowError } from '../contract/errors.ts';
import type { Config } from '../contract/schemas.ts';
import { type Access, readAccess, type S3Place, type Store, usualBucket, usualRegion } from './initAnswers.ts';
import { type Places, writeSecret } from './places.ts';

interface Settings {
  store: Store;
  access: Access;
  /** LXD's or Incus' socket. */
  socket: string;
  state: string;
  ports: Ports;
}

export interface Ports {
  gateway: number;
  gatewayHealth: number;
  workerHealth: number;
  /** Of VersityGW, which serves a folder. */
  store: number;
}

export const usualPorts: Ports = { gateway: 8443, gatewayHealth: 8081, workerHealth: 8082, store: 9000 };

/** What the configuration already says about what init asks. */
export interface Earlier {
  store: Store | undefined;
  /** It names a store, whose keys may be elsewhere. */
  hasStore: boolean;
  access: Access;
  socket: string | undefined;
  ports: Ports;
  /** It names a NATS: that of parts that are set up by hand. */
  hasNats: boolean;
}

const usualRemote = 'local';

/** In the configuration of the Debian package, until somebody sets it up. */
const placeholder = { endpoint: 'http://127.0.0.1:9000', bucket: usualBucket };
/** Where the package's services take the key from. */
const keyFile = '/etc/lxstow/credentials/s3-access-key';

/** Those that init reads or writes. */
const sections = ['s3', 'remotes', 'gateway', 'worker'];

export function readEarlier({ config, system }: Places): Earlier | undefined {
  if (!existsSync(config)) return undefined;
  const read = documentIn(readFileSync(config, 'utf8'), config).toJS() ?? {};
  const { s3 = {}, remotes = {}, gateway = {}, worker = {}, nats } = read;
  const { folder, endpoint, bucket = usualBucket, region = usualRegion, accessKey, secretKey, ca } = s3;
  const place = accessKey && secretKey && { endpoint, bucket, region, accessKey, secretKey, ...(ca && { ca }) };
  return {
    store: folder ? { folder } : place || undefined,
    hasStore:
      Boolean(folder || place) ||
      (endpoint ?? placeholder.endpoint) !== placeholder.endpoint ||
      bucket !== placeholder.bucket ||
      (system && existsSync(keyFile)),
    access: readAccess(s3, {}),
    socket: remotes[worker.remote ?? usualRemote]?.socket,
    hasNats: nats?.servers !== undefined,
    ports: {
      gateway: gateway.port ?? usualPorts.gateway,
      gatewayHealth: gateway.healthPort ?? usualPorts.gatewayHealth,
      workerHealth: worker.healthPort ?? usualPorts.workerHealth,
      store: Number((folder && endpoint && new URL(endpoint).port) || usualPorts.store),
    },
  };
}

/** Writes the file unless it says the same already; returns whether it was written. */
export async function writeConfiguration({ config }: Places, settings: Settings): Promise<boolean> {
  const there = existsSync(config);
  const document = documentIn(there ? readFileSync(config, 'utf8') : heading, config);
  const before = document.toJS();
  for (const [path, value] of [...values(settings), ...socketValue(before, settings.socket)]) {
    if (value !== undefined) document.setIn(path, document.createNode(value));
    else if (document.hasIn(path)) document.deleteIn(path);
  }
  if (there && isDeepStrictEqual(document.toJS(), before)) return false;
  await writeSecret(config, document.toString({ lineWidth: 0 }));
  return true;
}

/** Copies the CA to the folder of the configuration, because the service may not be able to read a user's home directory. */
export async function keepCa({ config }: Places, store: Store): Promise<Store> {
  if ('folder' in store || store.ca === undefined) return store;
  const kept = join(dirname(config), 's3-ca.crt');
  if (resolve(store.ca) === kept) return store;
  await mkdir(dirname(config), { recursive: true });
  await copyFile(store.ca, kept);
  await chmod(kept, 0o644);
  return { ...store, ca: kept };
}

/** Keeps the configuration that init is about to change for the first time; returns whether there is one. */
export async function keepConfiguration(places: Places): Promise<boolean> {
  if (!existsSync(places.config)) return false;
  await copyFile(places.config, keptConfiguration(places));
  return true;
}

/** Where the configuration before init is kept. */
export function keptConfiguration({ config }: Places): string {
  return `${config}.before-init`;
}

const heading = `# The configuration of lxstow, by \`lxstow init\`. All keys: docs/configuration.md. After a change, restart lxstow.

# Where backups go. With keys here, nobody but the owner of this file may read it.
s3:
  bucket: lxstow

# The LXD or Incus on this machine. lxstow calls it local.
remotes:
  local:
    socket: ""

# The API, for this machine only. To open it to others: address: 0.0.0.0 (docs/homelab.md)
gateway:
  stateDir: ""

# At most 20 MiB/s by day:
# worker:
#   bandwidth: 08:00,20MiB 23:00,off
`;

function values({ store, access, state, ports }: Settings): [path: string[], value: unknown][] {
  const ownPort = (path: string[], port: number, usual: number): [string[], unknown][] =>
    port === usual ? [] : [[path, port]];
  return [
    ...storeValues(store, ports),
    ...Object.entries(access).map(([key, value]): [string[], unknown] => [['s3', key], value]),
    [['gateway', 'stateDir'], state],
    ...ownPort(['gateway', 'port'], ports.gateway, usualPorts.gateway),
    ...ownPort(['gateway', 'healthPort'], ports.gatewayHealth, usualPorts.gatewayHealth),
    ...ownPort(['worker', 'healthPort'], ports.workerHealth, usualPorts.workerHealth),
  ];
}

/** The socket of the worker's host, whatever its name is; nothing if the host is reached by its URL. */
function socketValue(
  { remotes, worker }: { remotes?: Config['remotes']; worker?: Partial<Config['worker']> },
  socket: string,
): [path: string[], value: unknown][] {
  const name = worker?.remote ?? usualRemote;
  return remotes?.[name]?.url === undefined ? [[['remotes', name, 'socket'], socket]] : [];
}

function storeValues(store: Store, ports: Ports): [path: string[], value: unknown][] {
  if ('folder' in store) {
    const gone = ['bucket', 'region', 'accessKey', 'secretKey', 'ca'].map((key): [string[], undefined] => [
      ['s3', key],
      undefined,
    ]);
    const endpoint = ports.store === usualPorts.store ? undefined : `http://127.0.0.1:${ports.store}`;
    return [...gone, [['s3', 'endpoint'], endpoint], [['s3', 'folder'], store.folder]];
  }
  const { endpoint, bucket, region, accessKey, secretKey, ca }: S3Place = store;
  return Object.entries({ folder: undefined, endpoint, bucket, region, ca, accessKey, secretKey }).map(
    ([key, value]) => [['s3', key], value],
  );
}

function documentIn(text: string, file: string): Document {
  const document = parseDocument(text);
  const [fault] = document.errors;
  if (fault) throw new LxstowError('bad-config', `${file} is not YAML: ${fault.message}`);
  if (document.contents === null) return parseDocument(heading);
  if (!isMap(document.contents)) throw new LxstowError('bad-config', `${file} must contain keys and values`);
  for (const section of sections) fillIfEmpty(document as unknown as Document, section);
  return document as unknown as Document;
}

/** Makes a map of a section that has nothing, or nothing but comments, which stay. */
function fillIfEmpty(document: Document, section: string): void {
  const empty = document.get(section, true);
  if (!isScalar(empty) || empty.value !== null) return;
  const map = document.createNode({});
  if (empty.comment) map.commentBefore = empty.comment;
  document.set(section, map);
}
