-- Takes out of a listing what its caller may not see: `GET /v1/models`, `/v2/repository/index`, MLflow searches, ….
-- The sidecar says what may be seen in its dynamic metadata (`visible`, docs/mapping.md "Listings"); no caller can
-- write there. Stands before ext_authz in http_filters, so that it sees the answer after ext_authz decided.
-- What cannot be filtered with certainty (compressed, too large, another shape) is answered by 502.

local NAMESPACE = "envoy.filters.http.ext_authz"
local OWN = "envoy.filters.http.lua"
-- The listener buffers no more (per_connection_buffer_limit_bytes); beyond, Envoy itself answers 500.
local MAX_BYTES = 1024 * 1024
local MAX_DEPTH = 32

-- Of a listing's object: the member that lists, and in each of its elements the first of these that is there.
-- An element that is a text is its own name. Kubernetes and Ray, further below, have shapes of their own.
local LISTS = {
  data = { "id" }, -- OpenAI, vLLM, Anthropic
  models = { "name", "modelName", "model", "id" }, -- KServe V1, Ollama, TorchServe
  workflows = { "workflowName" }, -- TorchServe
  registered_models = { "name" }, -- MLflow
  model_versions = { "name" }, -- MLflow
  experiments = { "experiment_id" }, -- MLflow
}
-- Last segments of paths whose answers must come uncompressed to be read.
local PATHS = {
  models = true, index = true, search = true, tags = true, ps = true, workflows = true, applications = true,
  RepositoryIndex = true,
  -- Kubernetes
  inferenceservices = true, trainedmodels = true, inferencegraphs = true, servingruntimes = true,
  clusterservingruntimes = true, llminferenceservices = true, pipelines = true, experiments = true, servers = true,
  seldondeployments = true, rayservices = true,
}
local IN_AN_ARRAY = { "name" } -- V2 repository index
-- Members that name one element of the list (Anthropic's pages).
local NAMES = { first_id = true, last_id = true }

-- What may be seen ------------------------------------------------------------------------------------------------

local function decoded(text)
  return (text:gsub("%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end))
end

-- Names that a server takes for one have one spelling in policies; here as in the sidecar's adapter.
local SPELLED = {
  ollama = function(name)
    name = name:lower():gsub(":latest$", "")
    -- Only where they stand for host and namespace: `library/x/y` is the host `library`.
    name = name:gsub("^registry%.ollama%.ai/([^/]*/[^/]*)$", "%1")
    return (name:gsub("^library/([^/]*)$", "%1"))
  end,
}

local function compile(patterns, protocol)
  local exact, prefixes = {}, {}
  for _, pattern in ipairs(patterns) do
    local shown = pattern:sub(1, 1) ~= "!"
    local text = shown and pattern or pattern:sub(2)
    if text:sub(-1) == "*" then
      prefixes[#prefixes + 1] = { decoded(text:sub(1, -2)), shown }
    else
      exact[decoded(text)] = shown
    end
  end
  table.sort(prefixes, function(a, b) return #a[1] > #b[1] end)
  local spelled = SPELLED[protocol]
  return function(name)
    if spelled then name = spelled(name) end
    if exact[name] ~= nil then return exact[name] end
    for _, each in ipairs(prefixes) do
      if name:sub(1, #each[1]) == each[1] then return each[2] end
    end
    return false
  end
end

-- JSON, read strictly and kept byte for byte ----------------------------------------------------------------------

local Reader = {}
Reader.__index = Reader

function Reader:fail(why) error({ why = why }, 0) end

function Reader:space() self.at = self.text:find("[^ \t\r\n]", self.at) or #self.text + 1 end

function Reader:peek()
  self:space()
  return self.text:sub(self.at, self.at)
end

function Reader:take(wanted)
  if self:peek() ~= wanted then self:fail("no JSON") end
  self.at = self.at + 1
end

local ESCAPES = { b = "\b", f = "\f", n = "\n", r = "\r", t = "\t", ['"'] = '"', ["\\"] = "\\", ["/"] = "/" }

local function utf8(code)
  if code < 0x80 then return string.char(code) end
  if code < 0x800 then return string.char(0xC0 + math.floor(code / 0x40), 0x80 + code % 0x40) end
  if code < 0x10000 then
    return string.char(0xE0 + math.floor(code / 0x1000), 0x80 + math.floor(code / 0x40) % 0x40, 0x80 + code % 0x40)
  end
  return string.char(
    0xF0 + math.floor(code / 0x40000), 0x80 + math.floor(code / 0x1000) % 0x40,
    0x80 + math.floor(code / 0x40) % 0x40, 0x80 + code % 0x40)
end

-- Returns the text of the string at the cursor.
function Reader:string()
  self:take('"')
  local parts = {}
  while true do
    local stop = self.text:find('["\\%c]', self.at)
    if not stop then self:fail("no JSON") end
    parts[#parts + 1] = self.text:sub(self.at, stop - 1)
    local what = self.text:sub(stop, stop)
    self.at = stop + 1
    if what == '"' then return table.concat(parts) end
    if what ~= "\\" then self:fail("no JSON") end
    local escape = self.text:sub(self.at, self.at)
    self.at = self.at + 1
    if escape == "u" then
      local hex = self.text:match("^%x%x%x%x", self.at)
      if not hex then self:fail("no JSON") end
      self.at = self.at + 4
      local code = tonumber(hex, 16)
      if code >= 0xD800 and code < 0xDC00 then
        local low = self.text:match("^\\u([dD][c-fC-F]%x%x)", self.at)
        if not low then self:fail("half a character") end
        self.at = self.at + 6
        code = 0x10000 + (code - 0xD800) * 0x400 + (tonumber(low, 16) - 0xDC00)
      elseif code >= 0xDC00 and code < 0xE000 then
        self:fail("half a character")
      end
      parts[#parts + 1] = utf8(code)
    elseif ESCAPES[escape] then
      parts[#parts + 1] = ESCAPES[escape]
    else
      self:fail("no JSON")
    end
  end
end

-- Calls member(key) for each member of the object at the cursor; the callback reads the value.
function Reader:object(depth, member)
  if depth > MAX_DEPTH then self:fail("too deep") end
  self:take("{")
  local seen = {}
  if self:peek() == "}" then self.at = self.at + 1 return end
  while true do
    self:space()
    local key = self:string()
    if seen[key] then self:fail("a key twice") end
    seen[key] = true
    self:take(":")
    member(key)
    if self:peek() == "}" then self.at = self.at + 1 return end
    self:take(",")
  end
end

function Reader:array(depth, element)
  if depth > MAX_DEPTH then self:fail("too deep") end
  self:take("[")
  if self:peek() == "]" then self.at = self.at + 1 return end
  while true do
    element()
    if self:peek() == "]" then self.at = self.at + 1 return end
    self:take(",")
  end
end

-- Skips the value at the cursor; returns its text if it is a string, and whether it holds no other value.
function Reader:value(depth)
  local first = self:peek()
  if first == '"' then return self:string(), true end
  if first == "{" then
    self:object(depth, function() self:value(depth + 1) end)
    return nil, false
  end
  if first == "[" then
    self:array(depth, function() self:value(depth + 1) end)
    return nil, false
  end
  local word = self.text:match("^[%w.+-]+", self.at)
  if not word then self:fail("no JSON") end
  if not (word == "true" or word == "false" or word == "null" or word:match("^%-?%d+%.?%d*[eE]?[+-]?%d*$")) then
    self:fail("no JSON")
  end
  self.at = self.at + #word
  return nil, true
end

-- Reads the array (or null) at the cursor, each element by `name_of`; returns it with the elements that may be seen,
-- as they stood.
function Reader:filtered(name_of, visible)
  if self:peek() == "n" then self:value(1) return "null" end
  local kept = {}
  self:array(1, function()
    self:space()
    local start = self.at
    local name = name_of(self)
    if not name then self:fail("an element without a name") end
    if visible(name) then kept[#kept + 1] = self.text:sub(start, self.at - 1) end
  end)
  return "[" .. table.concat(kept, ",") .. "]"
end

-- Returns a reader of elements that are named by the first of these members, or by themselves.
local function named_by(names)
  return function(reader)
    if reader:peek() ~= "{" then return (reader:value(2)) end
    local found, name = {}, nil
    reader:object(2, function(key) found[key] = reader:value(3) end)
    for _, each in ipairs(names) do
      name = name or found[each]
    end
    return name
  end
end

-- Returns a member of an object as it is to be shown.
local function member(key, value)
  return '"' .. key:gsub('[%c"\\]', function(c) return string.format("\\u%04x", c:byte()) end) .. '":' .. value
end

-- Returns what stands at the cursor as it stood, its text, and whether it holds no other value.
function Reader:as_it_stood(depth)
  self:space()
  local start = self.at
  local text, plain = self:value(depth)
  return self.text:sub(start, self.at - 1), text, plain
end

-- What a listing's members become: shape(reader, key, visible) returns the value to show and whether it is the list.
local function plainly(reader, key, visible)
  if LISTS[key] then return reader:filtered(named_by(LISTS[key]), visible), true end
  local value, named, plain = reader:as_it_stood(2)
  if not plain then reader:fail("another shape") end
  if NAMES[key] and named and not visible(named) then value = "null" end
  return value, false
end

-- Kubernetes: `namespace/name` of the metadata at the cursor.
local function object_name(reader, depth)
  local found = {}
  reader:object(depth, function(key) found[key] = reader:value(depth + 1) end)
  if found.namespace and found.namespace ~= "" then return found.name and found.namespace .. "/" .. found.name end
  return found.name
end

local function object_itself(reader)
  local name
  reader:object(2, function(key)
    if key == "metadata" then name = object_name(reader, 3) else reader:value(3) end
  end)
  return name
end

local function object_of_row(reader)
  local name
  reader:object(2, function(key)
    if key ~= "object" then reader:value(3) return end
    reader:object(3, function(inner)
      if inner == "metadata" then name = object_name(reader, 4) else reader:value(4) end
    end)
  end)
  return name
end

local SHAPES = {
  kubernetes = function(reader, key, visible)
    if key == "items" then return reader:filtered(object_itself, visible), true end
    if key == "rows" then return reader:filtered(object_of_row, visible), true end -- kubectl's tables
    if key == "columnDefinitions" then return (reader:as_it_stood(2)), false end
    if key ~= "metadata" then return plainly(reader, key, visible) end
    reader:space()
    local start = reader.at
    reader:object(2, function(inner)
      local text, plain = reader:value(3)
      if not plain then reader:fail("another shape") end
      -- It holds the name of what comes next.
      if inner == "continue" and text ~= "" then reader:fail("a page") end
    end)
    return reader.text:sub(start, reader.at - 1), false
  end,
  ray = function(reader, key, visible)
    if key == "applications" then
      local kept = {}
      reader:object(2, function(name)
        local value = reader:as_it_stood(3)
        if visible(name) then kept[#kept + 1] = member(name, value) end
      end)
      return "{" .. table.concat(kept, ",") .. "}", true
    end
    if key == "target_groups" then reader:value(2) return "[]", false end -- whose routes do not say of whom they are
    if key == "controller_info" or key == "http_options" or key == "grpc_options" or key == "proxies" then
      return (reader:as_it_stood(2)), false
    end
    return plainly(reader, key, visible)
  end,
}

-- Returns the body of a listing without what may not be seen; raises {why = …}.
local function filter(text, visible, protocol)
  local reader = setmetatable({ text = text, at = 1 }, Reader)
  local shape = SHAPES[protocol] or plainly
  local out
  if reader:peek() == "[" then
    out = reader:filtered(named_by(IN_AN_ARRAY), visible)
  else
    local members, listed = {}, 0
    reader:object(1, function(key)
      local value, lists = shape(reader, key, visible)
      if lists then listed = listed + 1 end
      members[#members + 1] = member(key, value)
    end)
    if listed > 1 then reader:fail("two lists") end
    out = "{" .. table.concat(members, ",") .. "}"
  end
  reader:space()
  if reader.at <= #text then reader:fail("more than one value") end
  return out
end

-- gRPC: one uncompressed RepositoryIndexResponse, whose field 1 (a ModelIndex with the name in field 1) repeats -----

local function varint(text, at)
  local value, scale = 0, 1
  for _ = 1, 5 do
    local byte = text:byte(at)
    if not byte then error({ why = "no protobuf" }, 0) end
    at = at + 1
    value = value + byte % 0x80 * scale
    if byte < 0x80 then return value, at end
    scale = scale * 0x80
  end
  error({ why = "no protobuf" }, 0)
end

-- Calls field(number, first, last) for each length-delimited field of text; other fields are not expected.
local function fields(text, field)
  local at = 1
  while at <= #text do
    local start, tag, size = at, nil, nil
    tag, at = varint(text, at)
    if tag % 8 ~= 2 then error({ why = "another message" }, 0) end
    size, at = varint(text, at)
    if at + size - 1 > #text then error({ why = "no protobuf" }, 0) end
    field((tag - 2) / 8, start, at, at + size - 1)
    at = at + size
  end
end

local function filter_index(text, visible)
  local kept = {}
  if #text < 5 or text:byte(1) ~= 0 then error({ why = "compressed" }, 0) end
  local size = ((text:byte(2) * 256 + text:byte(3)) * 256 + text:byte(4)) * 256 + text:byte(5)
  if size ~= #text - 5 then error({ why = "not one message" }, 0) end
  text = text:sub(6)
  fields(text, function(number, start, first, last)
    if number ~= 1 then error({ why = "another message" }, 0) end
    local name
    fields(text:sub(first, last), function(inner, _, from, to)
      if inner == 1 then
        if name then error({ why = "two names" }, 0) end
        name = text:sub(first + from - 1, first + to - 1)
      end
    end)
    if not name then error({ why = "an element without a name" }, 0) end
    if visible(name) then kept[#kept + 1] = text:sub(start, last) end
  end)
  local out = table.concat(kept)
  local length = #out
  return string.char(0, math.floor(length / 0x1000000), math.floor(length / 0x10000) % 256,
    math.floor(length / 0x100) % 256, length % 256) .. out
end

-- The filter ------------------------------------------------------------------------------------------------------

-- Returns what stands in place of `text`; raises {why = …}. Nil: the answer lists nothing.
local function replacement(headers, text, visible, protocol)
  local status = tonumber(headers:get(":status"))
  local coding = headers:get("content-encoding")
  local kind = headers:get("content-type") or ""
  if status == 204 or status >= 400 then return nil end
  -- A 304 would say that what another caller saw still holds, a 206 is a piece.
  if status ~= 200 then error({ why = "status " .. status }, 0) end
  if coding and coding:lower() ~= "identity" then error({ why = "compressed" }, 0) end
  if #text > MAX_BYTES then error({ why = "too large" }, 0) end
  if kind == "application/grpc" or kind == "application/grpc+proto" then
    if text == "" and headers:get("grpc-status") then return nil end -- a failure has no message
    return filter_index(text, visible)
  end
  if not kind:lower():match("^application/json") then error({ why = "neither JSON nor gRPC" }, 0) end
  return filter(text, visible, protocol)
end

local function put(handle, body, text)
  local headers = handle:headers()
  local size = body:setBytes(text)
  if headers:get("content-length") then headers:replace("content-length", tostring(size)) end
  -- They speak of the whole list, and of this caller alone.
  for _, name in ipairs({ "etag", "last-modified", "content-md5", "digest", "content-digest", "accept-ranges" }) do
    headers:remove(name)
  end
  headers:replace("cache-control", "no-store")
end

local function hold_back(handle, why)
  put(handle, handle:body(true), '{"error":"the listing could not be filtered"}')
  local headers = handle:headers()
  headers:replace(":status", "502")
  headers:replace("content-type", "application/json")
  headers:remove("content-encoding")
  handle:logWarn("a listing was held back: " .. tostring(type(why) == "table" and why.why or why))
end

local function apply(handle, patterns, protocol)
  local visible = compile(patterns, protocol) -- before the body is waited for: metadata does not outlive the wait
  local own = handle:streamInfo():dynamicMetadata():get(OWN)
  if own and own["head"] then -- there is no body, and its length is the whole list's
    put(handle, handle:body(true), "")
    handle:headers():remove("content-length")
    return
  end
  local body = handle:body(true)
  local result = replacement(handle:headers(), body:getBytes(0, body:length()), visible, protocol)
  if result then put(handle, body, result) end
end

-- Envoy passes an answer on where a script fails, so that nothing here may fail outside of pcall.
function envoy_on_response(handle)
  local metadata = handle:streamInfo():dynamicMetadata():get(NAMESPACE)
  local patterns = metadata and metadata["visible"]
  if not patterns or metadata["decision"] ~= "allow" then return end
  local done, why = pcall(apply, handle, patterns, metadata["protocol"])
  if not done then hold_back(handle, why) end
end

-- Answers must come whole and plain to be read.
function envoy_on_request(handle)
  local headers = handle:headers()
  local path = headers:get(":path") or ""
  if PATHS[path:gsub("%?.*", ""):match("([^/]*)/?$")] then
    for _, name in ipairs({ "accept-encoding", "grpc-accept-encoding", "range", "if-none-match", "if-modified-since" }) do
      headers:remove(name)
    end
    if headers:get(":method") == "HEAD" then handle:streamInfo():dynamicMetadata():set(OWN, "head", true) end
  end
end
