/** Writes docs/openapi.json from schemas/: `node docs/openapi.ts`. With --check it only says whether it is stale. The gateway serves it; test/unit/access.test.ts holds its paths against the routes. */
import { readFile, writeFile } from 'node:fs/promises';
import { version } from '../services/contract/version.ts';
import { type Json, openBundle } from './bundle.ts';

const target = new URL('openapi.json', import.meta.url);
const { schemas, schema } = await openBundle();
const answers = (name: string) => schema(`http-answers.json#/$defs/${name}`);
const names = (name: string) => schema(`names.json#/$defs/${name}`);
const closed = (reference: Json): Json => ({ ...reference, unevaluatedProperties: false });

const text = { type: 'string' };
const operation = closed(schema('nats-api.json#/$defs/operation'));
const backup = closed(schema('nats-api.json#/$defs/backup'));
const listOf = (...items: Json[]): Json => ({ type: 'array', items: items.length > 1 ? { anyOf: items } : items[0] });

const json = (body: Json) => ({ 'application/json': { schema: body } });

function envelope(fields: Json, metadata: Json): Json {
  const common = { error_code: { const: 0 }, error: { const: '' } };
  const properties = { ...fields, ...common, metadata };
  return { type: 'object', additionalProperties: false, required: Object.keys(properties), properties };
}

const header = (description: string): Json => ({ description, schema: text });
const etag = { ETag: header("The object's ETag, for `If-Match`.") };
const location = { Location: header('Path of the operation, or of what was created.') };

const done = {
  type: { const: 'sync' },
  status: { const: 'Success' },
  status_code: { const: 200 },
  operation: { const: '' },
};
const sync = (description: string, metadata: Json, headers: Json = {}): Json => ({
  200: { description, headers, content: json(envelope(done, metadata)) },
});
/** A list. With `Accept: application/x-ndjson`, the answer is the whole list, one object per line. */
const list = (description: string, items: Json, metadata: Json = listOf(items), headers: Json = {}): Json => ({
  200: {
    description,
    headers,
    content: {
      ...json(envelope(done, metadata)),
      'application/x-ndjson': { schema: items },
    },
  },
});
const empty: Json = { type: 'object', additionalProperties: false };
const accepted = (description: string, metadata: Json = operation): Json => ({
  202: {
    description,
    headers: location,
    content: json(
      envelope(
        {
          type: { const: 'async' },
          status: { const: 'Operation created' },
          status_code: { const: 100 },
          operation: { type: 'string', pattern: '^/1\\.0/operations/' },
        },
        metadata,
      ),
    ),
  },
});

const refusal = { $ref: '#/components/responses/refusal' };
const failure = { $ref: '#/components/responses/failure' };

/** As in LXD, an empty parameter counts as absent. */
const query = (name: string, of: Json, description: string): Json => ({
  name,
  in: 'query',
  description,
  schema: of === text ? of : { anyOf: [of, { const: '' }] },
});
const flag = { enum: ['true', 'false', '1', '0'] };
const project = query('project', names('projectName'), 'An LXD project. Default: `default`.');
const target_ = query('target', names('remoteName'), 'A host of the configuration. Default: gateway.defaultRemote.');
const compression = query('compression', names('compression'), 'Compression, instead of worker.compression.');
const told = query(
  'notifyEndpoint',
  names('endpoint'),
  'A webhook that gets the notice of the end. The JSON body may name it instead.',
);
const recursion = query('recursion', text, '1: return the objects instead of their paths.');
const allProjects = query('all-projects', flag, 'true: all projects that the client may see.');
const tagging: Json = {
  name: 'x-amz-tagging',
  in: 'header',
  description: "Tags in S3's form: URL-encoded `key=value&k2=v2`.",
  schema: text,
};
const ifMatch: Json = {
  name: 'If-Match',
  in: 'header',
  description: 'Refuse the request with 412 if the ETag is another one.',
  schema: text,
};

const pathParameters: Record<string, Json> = {
  instance: names('instanceName'),
  backup: names('backupName'),
  snapshot: text,
  id: names('uuid'),
  name: schema('schedule.json#/$defs/name'),
  project: names('projectName'),
  pool: names('poolName'),
  fingerprint: {
    type: 'string',
    pattern: '^[0-9a-f]{1,64}$',
    description: 'The fingerprint, or a beginning of it that fits no other certificate.',
  },
};

interface Call {
  summary: string;
  parameters?: Json[];
  body?: Json;
  answers: Json;
}

function call(path: string, method: string, { summary, parameters = [], body, answers: good }: Call): Json {
  return {
    operationId: `${method}${path.replaceAll(/[^A-Za-z]+(.)?/g, (_, next: string = '') => next.toUpperCase())}`,
    summary,
    ...(parameters.length > 0 && { parameters }),
    ...(body && { requestBody: body }),
    responses: { ...good, '4XX': refusal, '5XX': failure },
  };
}

const paths: Json = {};

function route(path: string, calls: Record<string, Call>): void {
  const parameters = [...path.matchAll(/{(\w+)}/g)].map(([, name = '']) => ({
    name,
    in: 'path',
    required: true,
    schema: pathParameters[name],
  }));
  paths[path] = {
    ...(parameters.length > 0 && { parameters }),
    ...Object.fromEntries(Object.entries(calls).map(([method, each]) => [method, call(path, method, each)])),
  };
}

const optionalBody = (file: string): Json => ({
  content: json({
    anyOf: [schema(file), { enum: ['', null], description: "What LXD's clients send when they have no body." }],
  }),
});
const requiredBody = (file: string): Json => ({ required: true, content: json(schema(file)) });

route('/', { get: { summary: 'List the versions of the API', answers: sync('Their paths.', listOf(text)) } });
route('/1.0', {
  get: {
    summary: 'Show the server',
    answers: sync('A client that is not trusted gets fewer fields.', answers('server')),
  },
});
route('/1.0/openapi.json', {
  get: {
    summary: 'This document',
    answers: {
      200: { description: 'OpenAPI 3.1.', content: json({ type: 'object', required: ['openapi', 'paths'] }) },
    },
  },
});

const place = [project, target_];
const limit = query(
  'limit',
  text,
  'Items per page, at most 1000. The header `Link` leads to the next page. Default: all items at once.',
);
const after = query(
  'after',
  text,
  'Cursor after which the page begins. The header `Link` of the previous page contains it.',
);
const nextPage = { Link: header('The next page, `rel="next"`.') };
const remotes = query('target', names('remoteName'), 'A host of the configuration. Default: all hosts.');
const filter = query('filter', text, "LXD's filters: `status eq Running and config.image.os eq ubuntu`.");
/** An object as LXD returns it: at least these fields. */
const ofLxd = (...required: string[]): Json => ({ type: 'object', required });
const warned = {
  Warning: header(
    'What is missing from the answer, and why: a host of which no worker answered, or, while S3 is away, backups.',
  ),
};
const anyRecursion = query(
  'recursion',
  text,
  '1 or 2: return the objects instead of their paths; 2: with state, snapshots and backups.',
);
route('/1.0/instances', {
  get: {
    summary: 'List the instances of all hosts',
    parameters: [
      project,
      allProjects,
      remotes,
      filter,
      anyRecursion,
      query('instance-type', text, 'container or virtual-machine.'),
    ],
    answers: sync('As LXD shows them.', listOf(text, ofLxd('name', 'type', 'project', 'location')), warned),
  },
  post: {
    summary: 'Upload an LXD archive, and store it as a backup',
    parameters: [
      ...place,
      compression,
      tagging,
      told,
      ...['X-LXD-name', 'X-Incus-name'].map((name) => ({
        name,
        in: 'header',
        description: 'Name of the instance to which the backup belongs.',
        schema: names('instanceName'),
      })),
      ...['X-LXD-pool', 'X-Incus-pool'].map((name) => ({
        name,
        in: 'header',
        description: 'Storage pool of the backup: a restore that names no pool uses it.',
        schema: names('poolName'),
      })),
    ],
    body: {
      required: true,
      description: 'A tar archive: uncompressed, gzip or zstd.',
      content: { 'application/octet-stream': { schema: { type: 'string', format: 'binary' } } },
    },
    answers: accepted('The backup is stored, and the operation has ended.', answers('newBackup')),
  },
});
const instanceStatus = closed(schema('nats-api.json#/$defs/instanceStatus'));
route('/1.0/status', {
  get: {
    summary: 'The state of each instance, with its reason',
    parameters: [
      project,
      allProjects,
      remotes,
      filter,
      recursion,
      query('state', schema('nats-api.json#/$defs/instanceState'), 'Only instances in this state.'),
      query(
        'older-than',
        schema('nats-api.json#/$defs/olderThan'),
        'Age from which a last backup is too old. Default: gateway.backupMaxAgeHours.',
      ),
      query('limit', text, 'Items per page. The header `Link` leads to the next page. Default: all items at once.'),
      query('after', text, 'Cursor `host/project/instance`, after which the page begins.'),
    ],
    answers: list('Sorted by host, project and name.', instanceStatus, listOf(text, instanceStatus), {
      ...warned,
      ...nextPage,
    }),
  },
});
route('/1.0/instances/{instance}', {
  get: {
    summary: 'Show an instance',
    parameters: [project, remotes, anyRecursion],
    answers: sync('As LXD shows it.', ofLxd('name', 'type', 'project', 'location'), { ...etag, ...warned }),
  },
});
route('/1.0/instances/{instance}/snapshots', {
  get: {
    summary: "List an instance's snapshots on LXD",
    parameters: [recursion, project, remotes],
    answers: sync('Their paths, or as LXD shows them.', listOf(text, ofLxd('name')), warned),
  },
});
route('/1.0/instances/{instance}/snapshots/{snapshot}', {
  get: {
    summary: "Show one of an instance's snapshots on LXD",
    parameters: [project, remotes],
    answers: sync('As LXD shows it.', ofLxd('name'), warned),
  },
});
route('/1.0/instances/{instance}/state', {
  get: {
    summary: "Show an instance's state",
    parameters: [project, remotes],
    answers: sync('As LXD shows it.', ofLxd('status', 'status_code'), warned),
  },
});
for (const [plural, singular] of [
  ['projects', 'project'],
  ['storage-pools', 'pool'],
] as const) {
  route(`/1.0/${plural}`, {
    get: {
      summary: `List the ${plural} of all hosts`,
      parameters: [remotes, filter, anyRecursion],
      answers: sync('Those with the same name on several hosts are shown as one.', listOf(text, ofLxd('name')), warned),
    },
  });
  route(`/1.0/${plural}/{${singular}}`, {
    get: {
      summary: `Show one of the ${plural}`,
      parameters: [remotes],
      answers: sync('As LXD shows it.', ofLxd('name'), { ...etag, ...warned }),
    },
  });
}
const stored = query(
  'target',
  names('remoteName'),
  'The host whose backups they are; it may no longer be in the configuration. Default: gateway.defaultRemote.',
);
const anyStored = query(
  'target',
  { anyOf: [names('remoteName'), { const: '*' }] },
  'The host, as for a single backup. If the instance is `*`, the host may be `*`, too: every host that has backups.',
);
const storedPlace = [project, stored];
const listedBackup = closed(schema('nats-api.json#/$defs/listedBackup'));
route('/1.0/instances/{instance}/backups', {
  get: {
    summary: 'List backups',
    parameters: [project, allProjects, anyStored, limit, after],
    answers: list('Sorted by name.', listedBackup, listOf(listedBackup), nextPage),
  },
  post: {
    summary: 'Back the instance up',
    parameters: [
      ...place,
      compression,
      query('optimize', flag, "true: use the storage driver's own format."),
      tagging,
      told,
    ],
    body: optionalBody('http-create-backup.json'),
    answers: accepted('The backup is queued.', answers('newBackup')),
  },
});
const scheduled = schema('nats-api.json#/$defs/schedule');
route('/1.0/schedules', {
  get: {
    summary: 'List schedules',
    parameters: [recursion],
    answers: sync('Sorted by name.', listOf(text, scheduled)),
  },
  post: {
    summary: 'Create a schedule',
    body: requiredBody('http-schedules-post.json'),
    answers: {
      201: {
        description: 'The schedule was created. This does not start a run.',
        headers: location,
        content: json(envelope(done, { type: 'null' })),
      },
    },
  },
});
route('/1.0/schedules/{name}', {
  get: { summary: 'Show a schedule', answers: sync('The schedule, with the time at which it is next due.', scheduled) },
  put: {
    summary: 'Change a schedule',
    body: requiredBody('http-schedule.json'),
    answers: sync('The schedule as it is now.', scheduled),
  },
  delete: { summary: 'Delete a schedule; its runs continue', answers: sync('The schedule was deleted.', empty) },
});
route('/1.0/schedules/{name}/pause', {
  post: {
    summary: 'Pause a schedule',
    body: optionalBody('http-schedule-pause.json'),
    answers: sync('The schedule as it is now.', scheduled),
  },
});
route('/1.0/schedules/{name}/resume', {
  post: {
    summary: 'Resume a schedule, without making up for what was due while it was paused',
    answers: sync('The schedule as it is now.', scheduled),
  },
});
route('/1.0/schedules/{name}/run', {
  post: {
    summary: 'Start a run of a schedule now',
    body: optionalBody('http-retry-run.json'),
    answers: accepted('The run is planned. The answer is its operation.'),
  },
});
route('/1.0/schedules/{name}/next', {
  get: {
    summary: 'Show when a schedule is next due',
    parameters: [
      query('count', text, 'How many times to list. Default: 5.'),
      query('instances', flag, "true: list when each instance's next backup begins."),
    ],
    answers: sync('The next times.', listOf(closed(schema('nats-api.json#/$defs/scheduledAt'))), warned),
  },
});
route('/1.0/prune', {
  post: {
    summary: 'Delete the backups that a rule does not keep',
    parameters: storedPlace,
    body: requiredBody('http-prune.json'),
    answers: sync(
      'With `dry_run`, what would happen to each backup, sorted by instance, oldest first. Otherwise the operations, one for each instance that has backups to delete.',
      { anyOf: [listOf(closed(schema('nats-api.json#/$defs/pruneVerdict'))), listOf(operation)] },
    ),
  },
});
route('/1.0/instances/{instance}/backups/{backup}', {
  get: {
    summary: 'Show a backup',
    parameters: storedPlace,
    answers: sync('The backup; while it is being made, with its progress.', backup, etag),
  },
  post: {
    summary: 'Restore a backup',
    parameters: [
      ...storedPlace,
      query('name', names('instanceName'), 'As in the body.'),
      query('pool', names('poolName'), 'As in the body.'),
      query('start', flag, 'As in the body.'),
      query('replace', flag, 'As in the body.'),
      told,
    ],
    body: optionalBody('http-restore-backup.json'),
    answers: accepted('The restore is queued.'),
  },
  put: {
    summary: 'Replace the tags and notes of a backup; pin or unpin it',
    parameters: [...place, ifMatch],
    body: requiredBody('http-update-backup.json'),
    answers: sync('The backup as it is now.', backup, etag),
  },
  patch: {
    summary: 'Change some tags or the notes of a backup; pin or unpin it',
    parameters: [...place, ifMatch],
    body: requiredBody('http-update-backup.json'),
    answers: sync('The backup as it is now.', backup, etag),
  },
  delete: {
    summary: 'Delete a backup',
    parameters: [...place, told],
    answers: sync('The backup was deleted. The answer is the operation that deleted it.', operation),
  },
});

const archive = Object.fromEntries(
  ['application/gzip', 'application/zstd', 'application/x-tar'].map((type) => [
    type,
    { schema: { type: 'string', format: 'binary' } },
  ]),
);
const archiveHeaders = {
  ...etag,
  'Accept-Ranges': header('bytes'),
  'Content-Disposition': header('Suggested name of the file.'),
};
const conditions = ['Range', 'If-Range', 'If-None-Match'].map((name) => ({ name, in: 'header', schema: text }));
route('/1.0/instances/{instance}/backups/{backup}/export', {
  get: {
    summary: 'Download the archive; the connection is cut before a damaged part',
    parameters: [...storedPlace, ...conditions, ifMatch],
    answers: {
      200: { description: 'The whole archive.', headers: archiveHeaders, content: archive },
      206: {
        description: 'The range.',
        headers: { ...archiveHeaders, 'Content-Range': header('The range, and the size of the archive.') },
        content: archive,
      },
      304: { description: 'The client already has this archive.', headers: etag },
    },
  },
});
route('/1.0/instances/{instance}/backups/{backup}/export/url', {
  get: {
    summary: 'Create a presigned URL of the archive, which works without a certificate',
    parameters: [
      ...storedPlace,
      query(
        'expiry',
        { type: 'integer', minimum: 1, maximum: 604_800 },
        'How long the URL is valid, in seconds. Default: 3600.',
      ),
    ],
    answers: sync('A URL of the S3 store.', answers('url')),
  },
});

const all = [query('project', names('projectName'), 'Default: `default`.'), allProjects];
const anyOperation = { anyOf: [operation, answers('token')] };
route('/1.0/operations', {
  get: {
    summary: 'List operations',
    parameters: [...all, recursion, filter, limit, after],
    answers: list('Grouped by status.', anyOperation, answers('operations'), nextPage),
  },
});
route('/1.0/operations/{id}', {
  get: { summary: 'Show an operation', answers: sync('As it is now.', anyOperation) },
  delete: { summary: 'Cancel an operation', answers: sync('The operation was asked to end.', empty) },
});
route('/1.0/operations/{id}/wait', {
  get: {
    summary: 'Wait for an operation',
    parameters: [
      query('timeout', { type: 'number' }, 'Seconds to wait. Default, and if negative: until the operation has ended.'),
    ],
    answers: sync('The operation once it has ended, or as it is after the timeout.', operation),
  },
});
const runs = (name: string) => closed(schema(`run-answers.json#/$defs/${name}`));
const paged = [
  query('limit', { type: 'integer', minimum: 1, maximum: 1000 }, 'Items per page. Default: 100.'),
  query('after', text, '`next` of the previous page.'),
];
route('/1.0/runs', {
  get: {
    summary: 'List runs',
    parameters: paged,
    answers: list('Newest first; of each run, only what the client may see.', runs('run'), runs('runPage')),
  },
  post: {
    summary: 'Back up many instances as one run',
    parameters: [tagging, told],
    body: requiredBody('http-create-run.json'),
    answers: accepted('The run is planned. The answer is its operation.'),
  },
});
route('/1.0/runs/{id}', {
  get: { summary: 'Show a run', answers: sync('As it is now.', runs('run')) },
  delete: { summary: 'Cancel a run, and all its children', answers: sync('The run was asked to end.', empty) },
});
route('/1.0/runs/{id}/children', {
  get: {
    summary: "List a run's children",
    parameters: [query('state', schema('run.json#/$defs/state'), 'Only children in this state.'), ...paged],
    answers: list('In the order in which they are started.', runs('child'), runs('childPage')),
  },
});
route('/1.0/runs/{id}/retry', {
  post: {
    summary: 'Repeat the failed backups of a run, as a new run',
    body: optionalBody('http-retry-run.json'),
    answers: accepted('The new run is planned. The answer is its operation.'),
  },
});
route('/1.0/events', {
  get: {
    summary: "LXD's events, over a websocket",
    parameters: [...all, query('type', text, 'operation, lifecycle or logging; several are separated by commas.')],
    answers: { 101: { description: 'One message for each event.' } },
  },
});

route('/1.0/certificates', {
  get: {
    summary: 'List trusted clients',
    parameters: [recursion],
    answers: sync(
      'An admin sees all clients; other clients see only themselves.',
      listOf(text, answers('certificate')),
    ),
  },
  post: {
    summary: 'Trust a client, or create a token with which a client can add itself',
    body: optionalBody('http-certificates-post.json'),
    answers: {
      201: {
        description: 'The client is trusted.',
        headers: location,
        content: json(envelope(done, { type: 'null' })),
      },
      ...accepted('The token.', answers('token')),
    },
  },
});
const certificateBody = optionalBody('http-certificate-put.json');
route('/1.0/certificates/{fingerprint}', {
  get: { summary: 'Show a trusted client', answers: sync('The client.', answers('certificate'), etag) },
  put: {
    summary: 'Change what a client may do',
    parameters: [ifMatch],
    body: certificateBody,
    answers: sync('Done.', empty),
  },
  patch: {
    summary: 'Change some of what a client may do',
    parameters: [ifMatch],
    body: certificateBody,
    answers: sync('Done.', empty),
  },
  delete: { summary: 'Stop trusting a client', answers: sync('Done.', empty) },
});

const error = json(answers('error'));
const document = {
  openapi: '3.1.0',
  info: {
    title: 'lxstow',
    version,
    description:
      "Backs up LXD and Incus instances to S3 or to a folder, and restores them. The API is LXD's REST API, with additions: docs/api.md. A trailing slash in a path makes no difference.",
    license: { name: 'Apache-2.0', identifier: 'Apache-2.0' },
  },
  servers: [{ url: 'https://127.0.0.1:8443', description: 'gateway.address and gateway.port of the configuration.' }],
  security: [{ certificate: [] }],
  paths,
  webhooks: {
    notice: {
      post: {
        summary: 'The notice that webhooks get when an operation or a run has ended',
        parameters: ['webhook-id', 'webhook-timestamp', 'webhook-signature'].map((name) => ({
          name,
          in: 'header',
          description: 'See https://www.standardwebhooks.com.',
          schema: text,
        })),
        requestBody: {
          required: true,
          content: json({ anyOf: [schema('notice.json'), schema('run-answers.json#/$defs/notice')] }),
        },
        responses: {
          '2XX': { description: 'The notice was accepted.' },
          '4XX': { description: 'The notice is given up, except after 408 and 429: then it is sent again.' },
          '5XX': { description: 'The notice is sent again.' },
        },
        security: [],
      },
    },
  },
  components: {
    securitySchemes: { certificate: { type: 'mutualTLS', description: 'A client certificate that is trusted.' } },
    responses: {
      refusal: { description: 'Refused; nothing was done.', content: error },
      failure: { description: 'The request failed, or cannot be done now.', content: error },
    },
    schemas: Object.fromEntries(Object.entries(schemas).sort(([a], [b]) => (a < b ? -1 : 1))),
  },
};

const fresh = `${JSON.stringify(document, null, 1)}\n`;
const present = await readFile(target, 'utf8').catch(() => '');
if (process.argv.includes('--check')) {
  if (present !== fresh) {
    console.error('docs/openapi.json is stale: run `npm run generate`');
    process.exitCode = 1;
  }
} else if (present !== fresh) await writeFile(target, fresh);
