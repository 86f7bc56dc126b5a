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
const etag = { ETag: header('For `If-Match`.') };
const location = { Location: header('Its path.') };

const done = {
  type: { const: 'sync' },
  status: { const: 'Success' },
  status_code: { const: 200 },
  operation: { const: '' },
};
const sync = (description: string, metadata: Json, headers: Json = {}): Json => ({
  200: { description, headers, content: json(envelope(done, metadata)) },
});
/** A list, which who accepts NDJSON gets whole: an object a line, of all pages. */
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

/** An empty parameter is as if it were not there, as in LXD. */
const query = (name: string, of: Json, description: string): Json => ({
  name,
  in: 'query',
  description,
  schema: of === text ? of : { anyOf: [of, { const: '' }] },
});
const flag = { enum: ['true', 'false', '1', '0'] };
const project = query('project', names('projectName'), 'An LXD project; `default` without it.');
const target_ = query('target', names('remoteName'), 'A remote of the configuration; else gateway.defaultRemote.');
const compression = query('compression', names('compression'), 'In the place of worker.compression.');
const told = query('notifyEndpoint', names('endpoint'), 'A URL that is told how it ended; in a body as well.');
const recursion = query('recursion', text, '1: whole objects in the place of their paths.');
const allProjects = query('all-projects', flag, 'Of all projects that the client may see.');
const tagging: Json = {
  name: 'x-amz-tagging',
  in: 'header',
  description: 'Tags, as S3 writes them: URL-encoded `key=value&k2=v2`.',
  schema: text,
};
const ifMatch: Json = { name: 'If-Match', in: 'header', description: 'Only what has this ETag.', schema: text };

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
    description: 'Or so much of it that it is the only one.',
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
  content: json({ anyOf: [schema(file), { enum: ['', null], description: "As LXD's clients send nothing." }] }),
});
const requiredBody = (file: string): Json => ({ required: true, content: json(schema(file)) });

route('/', { get: { summary: 'The versions of the API', answers: sync('Their paths.', listOf(text)) } });
route('/1.0', {
  get: { summary: 'What the server is', answers: sync('Less for who is not trusted.', answers('server')) },
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
  'A page of so many, 1000 at most; the header `Link` leads to the next one. All without it.',
);
const after = query('after', text, 'Those behind this cursor, which the header `Link` of the page before has.');
const nextPage = { Link: header('The next page, `rel="next"`.') };
const remotes = query('target', names('remoteName'), 'A remote of the configuration; all of them without it.');
const filter = query('filter', text, "LXD's filters: `status eq Running and config.image.os eq ubuntu`.");
/** As LXD has it: what else is in it is up to LXD. */
const ofLxd = (...required: string[]): Json => ({ type: 'object', required });
const warned = { Warning: header('What is not in the answer: a remote that was not heard.') };
const anyRecursion = query(
  'recursion',
  text,
  '1 and 2: whole objects in the place of their paths; 2: with state, snapshots and backups.',
);
route('/1.0/instances', {
  get: {
    summary: 'List the instances of all remotes',
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
    summary: 'Put an archive of LXD into the store, as a backup',
    parameters: [
      ...place,
      compression,
      tagging,
      told,
      ...['X-LXD-name', 'X-Incus-name'].map((name) => ({
        name,
        in: 'header',
        description: 'The instance whose backup it becomes.',
        schema: names('instanceName'),
      })),
      ...['X-LXD-pool', 'X-Incus-pool'].map((name) => ({
        name,
        in: 'header',
        description: 'The pool that it is restored into.',
        schema: names('poolName'),
      })),
    ],
    body: {
      required: true,
      description: 'A tar, as it is or in gzip or zstd.',
      content: { 'application/octet-stream': { schema: { type: 'string', format: 'binary' } } },
    },
    answers: accepted('It is stored; the operation has ended.', answers('newBackup')),
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
      query('state', schema('nats-api.json#/$defs/instanceState'), 'Only those.'),
      query('older-than', schema('nats-api.json#/$defs/olderThan'), 'In the place of gateway.backupMaxAgeHours.'),
      query('limit', text, 'A page of so many; the header `Link` leads to the next one. All without it.'),
      query('after', text, 'Those behind `host/project/instance`.'),
    ],
    answers: list('By host, project and name.', instanceStatus, listOf(text, instanceStatus), {
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
      summary: `List the ${plural} of all remotes`,
      parameters: [remotes, filter, anyRecursion],
      answers: sync('Those of one name are shown as one.', listOf(text, ofLxd('name')), warned),
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
  'The remote whose backups they are, also one that is not in the configuration any more; else gateway.defaultRemote.',
);
const anyStored = query(
  'target',
  { anyOf: [names('remoteName'), { const: '*' }] },
  'As for one backup; `*` with all instances: of all that have backups.',
);
const storedPlace = [project, stored];
const listedBackup = closed(schema('nats-api.json#/$defs/listedBackup'));
route('/1.0/instances/{instance}/backups', {
  get: {
    summary: 'List backups',
    parameters: [project, allProjects, anyStored, limit, after],
    answers: list('By name.', listedBackup, listOf(listedBackup), nextPage),
  },
  post: {
    summary: 'Back the instance up',
    parameters: [...place, compression, query('optimize', flag, "The storage driver's own format."), tagging, told],
    body: optionalBody('http-create-backup.json'),
    answers: accepted('The backup is queued.', answers('newBackup')),
  },
});
const scheduled = schema('nats-api.json#/$defs/schedule');
route('/1.0/schedules', {
  get: {
    summary: 'List schedules',
    parameters: [recursion],
    answers: sync('By name.', listOf(text, scheduled)),
  },
  post: {
    summary: 'Make a schedule',
    body: requiredBody('http-schedules-post.json'),
    answers: {
      201: {
        description: 'It is made; nothing is begun by that.',
        headers: location,
        content: json(envelope(done, { type: 'null' })),
      },
    },
  },
});
route('/1.0/schedules/{name}', {
  get: { summary: 'Show a schedule', answers: sync('With when it is due next.', scheduled) },
  put: {
    summary: 'Change a schedule',
    body: requiredBody('http-schedule.json'),
    answers: sync('The schedule as it is now.', scheduled),
  },
  delete: { summary: 'Delete a schedule; its runs go on', answers: sync('It is gone.', empty) },
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
    summary: 'Go on with a schedule; what was due meanwhile is not made up for',
    answers: sync('The schedule as it is now.', scheduled),
  },
});
route('/1.0/schedules/{name}/run', {
  post: {
    summary: 'Begin a run of a schedule now',
    body: optionalBody('http-retry-run.json'),
    answers: accepted('The run is planned. Its operation.'),
  },
});
route('/1.0/schedules/{name}/next', {
  get: {
    summary: 'When a schedule is due',
    parameters: [
      query('count', text, 'How many times; 5 without it.'),
      query('instances', flag, 'When each instance begins the next time.'),
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
      'With dry_run what would become of each backup, by instance, the oldest first; else the operations, one for each instance with something to delete.',
      { anyOf: [listOf(closed(schema('nats-api.json#/$defs/pruneVerdict'))), listOf(operation)] },
    ),
  },
});
route('/1.0/instances/{instance}/backups/{backup}', {
  get: {
    summary: 'Show a backup',
    parameters: storedPlace,
    answers: sync('While it is made, with its progress.', backup, etag),
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
    summary: 'Put tags and notes in the place of those that it has, pin or unpin it',
    parameters: [...place, ifMatch],
    body: requiredBody('http-update-backup.json'),
    answers: sync('The backup as it is now.', backup, etag),
  },
  patch: {
    summary: 'Change tags and notes, pin or unpin it',
    parameters: [...place, ifMatch],
    body: requiredBody('http-update-backup.json'),
    answers: sync('The backup as it is now.', backup, etag),
  },
  delete: {
    summary: 'Delete a backup',
    parameters: [...place, told],
    answers: sync('It is gone. The operation that did it.', operation),
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
  'Content-Disposition': header('A name for the file.'),
};
const conditions = ['Range', 'If-Range', 'If-None-Match'].map((name) => ({ name, in: 'header', schema: text }));
route('/1.0/instances/{instance}/backups/{backup}/export', {
  get: {
    summary: 'The archive; cut where a part of it is damaged',
    parameters: [...storedPlace, ...conditions, ifMatch],
    answers: {
      200: { description: 'All of it.', headers: archiveHeaders, content: archive },
      206: {
        description: 'The range.',
        headers: { ...archiveHeaders, 'Content-Range': header('Which, and of how many bytes.') },
        content: archive,
      },
      304: { description: 'The client has it.', headers: etag },
    },
  },
});
route('/1.0/instances/{instance}/backups/{backup}/export/url', {
  get: {
    summary: 'A URL of the archive for those without a certificate',
    parameters: [
      ...storedPlace,
      query('expiry', { type: 'integer', minimum: 1, maximum: 604_800 }, 'Seconds; 3600 without it.'),
    ],
    answers: sync('It leads to the store.', answers('url')),
  },
});

const all = [query('project', names('projectName'), '`default` without it.'), allProjects];
const anyOperation = { anyOf: [operation, answers('token')] };
route('/1.0/operations', {
  get: {
    summary: 'List operations',
    parameters: [...all, recursion, filter, limit, after],
    answers: list('By status.', anyOperation, answers('operations'), nextPage),
  },
});
route('/1.0/operations/{id}', {
  get: { summary: 'Show an operation', answers: sync('As it is now.', anyOperation) },
  delete: { summary: 'Cancel an operation', answers: sync('It is asked to end.', empty) },
});
route('/1.0/operations/{id}/wait', {
  get: {
    summary: 'Wait for an operation',
    parameters: [query('timeout', { type: 'number' }, 'Seconds; below 0, and without it, until it has ended.')],
    answers: sync('As it is when it has ended, or the time is over.', operation),
  },
});
const runs = (name: string) => closed(schema(`run-answers.json#/$defs/${name}`));
const paged = [
  query('limit', { type: 'integer', minimum: 1, maximum: 1000 }, 'At most so many; 100 without it.'),
  query('after', text, '`next` of the page before.'),
];
route('/1.0/runs', {
  get: {
    summary: 'List runs',
    parameters: paged,
    answers: list('The newest first; of each what the client may see of it.', runs('run'), runs('runPage')),
  },
  post: {
    summary: 'Back many instances up, as one thing',
    parameters: [tagging, told],
    body: requiredBody('http-create-run.json'),
    answers: accepted('The run is planned. Its operation.'),
  },
});
route('/1.0/runs/{id}', {
  get: { summary: 'Show a run', answers: sync('As it is now.', runs('run')) },
  delete: { summary: 'Cancel a run, and all its children', answers: sync('It is asked to end.', empty) },
});
route('/1.0/runs/{id}/children', {
  get: {
    summary: "List a run's children",
    parameters: [query('state', schema('run.json#/$defs/state'), 'Only those.'), ...paged],
    answers: list('In the order in which they are begun.', runs('child'), runs('childPage')),
  },
});
route('/1.0/runs/{id}/retry', {
  post: {
    summary: 'Repeat what failed in a run, as a new one',
    body: optionalBody('http-retry-run.json'),
    answers: accepted('The new run is planned. Its operation.'),
  },
});
route('/1.0/events', {
  get: {
    summary: "LXD's events, over a websocket",
    parameters: [...all, query('type', text, 'operation, lifecycle, logging; several with commas.')],
    answers: { 101: { description: 'A message each.' } },
  },
});

route('/1.0/certificates', {
  get: {
    summary: 'List trusted clients',
    parameters: [recursion],
    answers: sync('An admin sees all, others themselves.', listOf(text, answers('certificate'))),
  },
  post: {
    summary: 'Trust a client, or make a token by which one adds itself',
    body: optionalBody('http-certificates-post.json'),
    answers: {
      201: { description: 'It is trusted.', headers: location, content: json(envelope(done, { type: 'null' })) },
      ...accepted('The token.', answers('token')),
    },
  },
});
const certificateBody = optionalBody('http-certificate-put.json');
route('/1.0/certificates/{fingerprint}', {
  get: { summary: 'Show a trusted client', answers: sync('It.', answers('certificate'), etag) },
  put: {
    summary: 'Change what a client may do',
    parameters: [ifMatch],
    body: certificateBody,
    answers: sync('Done.', empty),
  },
  patch: { summary: 'Change some of it', parameters: [ifMatch], body: certificateBody, answers: sync('Done.', empty) },
  delete: { summary: 'Trust a client no longer', answers: sync('Done.', empty) },
});

const error = json(answers('error'));
const document = {
  openapi: '3.1.0',
  info: {
    title: 'lxstow',
    version,
    description:
      "Backs LXD instances up to S3 and brings them back. LXD's REST API where it has words for it; in ours: docs/api.md. A trailing slash changes nothing.",
    license: { name: 'Apache-2.0', identifier: 'Apache-2.0' },
  },
  servers: [{ url: 'https://127.0.0.1:8443', description: 'gateway.address and gateway.port of the configuration.' }],
  security: [{ certificate: [] }],
  paths,
  webhooks: {
    notice: {
      post: {
        summary: 'An operation or a run has ended: what endpoints are told',
        parameters: ['webhook-id', 'webhook-timestamp', 'webhook-signature'].map((name) => ({
          name,
          in: 'header',
          description: 'As https://www.standardwebhooks.com has it.',
          schema: text,
        })),
        requestBody: {
          required: true,
          content: json({ anyOf: [schema('notice.json'), schema('run-answers.json#/$defs/notice')] }),
        },
        responses: {
          '2XX': { description: 'It is taken.' },
          '4XX': { description: 'It is not tried again, but for 408 and 429.' },
          '5XX': { description: 'It is tried again.' },
        },
        security: [],
      },
    },
  },
  components: {
    securitySchemes: { certificate: { type: 'mutualTLS', description: 'A client certificate that is trusted.' } },
    responses: {
      refusal: { description: 'Refused; nothing was done.', content: error },
      failure: { description: 'It failed, or cannot be done now.', content: error },
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
